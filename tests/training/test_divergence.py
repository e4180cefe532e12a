"""The loss against traces written out and the divergence that really comes, its derivative against autograd."""
import pytest
import torch
from torch.nn import functional as F

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.predictor.selection import select_weights
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics, collect_statistics
from timm_sbs.training.losses.weight_uses import Use, find_uses


def random_statistics(use, outputs):
    roots = torch.randn(use.groups, use.blocks, use.size, 2 * use.size)
    return LayerStatistics(
        roots @ roots.mT, torch.randn(use.groups, use.blocks, use.size), torch.tensor(0.25), torch.rand(outputs))


KINDS = {
    'dense': (Use(1, 1, 12, 7), (6, 3, 2, 2)), 'blocks': (Use(1, 3, 4, 7), (6, 3, 2, 2)),
    'groups': (Use(3, 1, 8, 7), (6, 2, 2, 2)), 'depthwise': (Use(6, 1, 4, 7), (6, 1, 2, 2)),
    'groups and blocks': (Use(2, 2, 5, 7), (6, 10))}


@pytest.mark.parametrize('kind', KINDS)
def test_loss_and_derivative(kind):
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    weight, layer = torch.randn(shape), random_statistics(use, 6)
    divergence = ExpectedDivergence([WeightSpec('w', shape)], {'w': weight}, {'w': use}, {'w': layer}, damping=0.)
    moved = (weight + 0.1 * torch.randn(shape)).requires_grad_()
    error = (moved - weight).view(use.groups, -1, use.blocks, use.size)
    moment = layer.second_moment
    expected = (torch.einsum('gobi,gbij,gobj->go', error, moment, error).flatten() * layer.importance).sum() / 2
    gradient, = torch.autograd.grad(expected, moved)
    loss, derivative = divergence('w', moved)
    assert torch.allclose(loss, expected, rtol=1e-4) and torch.allclose(derivative, gradient, rtol=1e-3, atol=1e-4)
    filters = torch.tensor([4, 1, 2])
    _, rows = divergence('w', moved[filters], filters)
    assert torch.allclose(rows, derivative[filters], rtol=1e-3, atol=1e-4)
    parts = [float(divergence('w', moved[[i]], torch.tensor([i]))[0]) for i in range(6)]
    assert sum(parts) == pytest.approx(float(loss), rel=1e-3)


def test_weights_without_statistics_count_as_much_for_their_size():
    torch.manual_seed(0)
    use, shape = KINDS['dense']
    weights = {'w': torch.randn(shape), 'v': torch.randn(4, 5)}
    divergence = ExpectedDivergence(
        [WeightSpec('w', shape), WeightSpec('v', (4, 5))], weights, {'w': use}, {'w': random_statistics(use, 6)}, 1e-3)
    assert divergence.without_statistics == ['v']
    per_value = {name: float(divergence(name, torch.zeros_like(w))[0]) / w.numel() for name, w in weights.items()}
    assert per_value['v'] == pytest.approx(per_value['w'], rel=1e-4)


def test_damping_keeps_the_loss_positive_where_nothing_was_seen():
    use, shape = KINDS['dense']
    layer = LayerStatistics(torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12), torch.tensor(0.), torch.ones(6))
    layer.second_moment[0, 0, 0, 0] = 5.
    weight = torch.zeros(shape)
    divergence = ExpectedDivergence([WeightSpec('w', shape)], {'w': weight}, {'w': use}, {'w': layer}, damping=1e-2)
    unseen = weight.clone()
    unseen[0, 2, 1, 1] = 1.
    assert float(divergence('w', unseen)[0]) == pytest.approx(0.5 * 1e-2 * 5 / 12 * 1.01, rel=1e-3)


@pytest.fixture(scope='module')
def measured(resnet20, images):
    """ResNet-20's statistics on 200 images of the demo."""
    specs = select_weights(resnet20)
    uses = find_uses(resnet20, specs, images[0][:1])
    return specs, uses, statistics_of(resnet20, uses, images)


def statistics_of(model, uses, images):
    return collect_statistics(model, uses, images[0][:200].split(50), 200, make_accelerator('no', cpu=True))[0]


def logits_with(model, changes, images):
    with torch.no_grad():
        return torch.func.functional_call(model, changes, (images,))


def test_small_errors_cost_what_is_expected(resnet20, images, measured):
    """Random errors of 1 % of all weights: the divergence that comes is that of the expansion within a factor of 2."""
    specs, uses, _ = measured
    state = resnet20.state_dict()
    without = {n: Use(u.groups, u.blocks, u.size, u.positions) for n, u in uses.items()}  # no corrections here
    divergence = ExpectedDivergence(specs, state, without, statistics_of(resnet20, without, images), 1e-6)
    torch.manual_seed(0)
    noisy = {s.name: state[s.name] + 0.01 * state[s.name].std() * torch.randn(s.shape) for s in specs}
    original, changed = (logits_with(resnet20, w, images[0][:200]) for w in ({}, noisy))
    came = F.kl_div(changed.log_softmax(1), original.log_softmax(1), log_target=True, reduction='batchmean')
    assert divergence.total(noisy) == pytest.approx(float(came), rel=1 / 3)


def test_corrections_restore_the_means_of_outputs(resnet20, images, measured):
    specs, uses, found = measured
    state = resnet20.state_dict()
    divergence = ExpectedDivergence(specs, state, uses, found, 1e-3)
    name = 'layer3.0.conv1.weight'
    torch.manual_seed(0)
    weights = {s.name: state[s.name] for s in specs}
    assert all(float(change.abs().max()) == 0 for change in divergence.corrections(weights).values())
    weights[name] = weights[name] * 0.9 + 0.02
    changes = divergence.corrections(weights)
    changed = [entry for entry, change in changes.items() if float(change.abs().max()) > 0]
    assert changed == ['layer3.0.bn1.running_mean']

    outputs = []
    hook = resnet20.layer3[0].bn1.register_forward_hook(lambda m, i, y: outputs.append(y.mean((0, 2, 3))))
    entry = changed[0]
    for change in ({}, {name: weights[name]}, {name: weights[name], entry: state[entry] + changes[entry]}):
        logits_with(resnet20, change, images[0][:200])
    hook.remove()
    original, generated, corrected = outputs
    assert (corrected - original).norm() < 0.1 * (generated - original).norm()


def test_changes_are_measured_from_any_weights(resnet20, measured):
    specs, uses, found = measured
    state = resnet20.state_dict()
    divergence = ExpectedDivergence(specs, state, uses, found, 1e-3)
    weights = {s.name: state[s.name] * 0.5 for s in specs}
    others = {name: weight + 0.01 for name, weight in weights.items()}
    again = {s.name: state[s.name] + 0.01 for s in specs}
    assert divergence.of_changes(weights, others) == pytest.approx(divergence.total(again), rel=1e-3)
