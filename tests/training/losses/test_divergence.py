"""The loss against traces written out and the divergence that really comes, its derivative against autograd; its
curvatures against sums of squares."""
import dataclasses

import pytest
import torch
from layers import KINDS, random_statistics
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.training.losses.divergence import Curvature, ExpectedDivergence, curvatures
from timm_sbs.training.losses.statistics import LayerStatistics, collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses


@pytest.mark.parametrize('kind', KINDS)
def test_loss_and_derivative(kind):
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    weight, layer = torch.randn(shape), random_statistics(use, 6)
    divergence = ExpectedDivergence({'w': weight}, {'w': use}, {'w': layer}, damping=0.)
    moved = (weight + 0.1 * torch.randn(shape)).requires_grad_()
    error = (moved - weight).view(use.groups, -1, use.blocks, use.size)
    moment = layer.second_moment
    expected = (torch.einsum('gobi,gbij,gobj->go', error, moment, error).flatten() * layer.importance).sum() / 2
    gradient, = torch.autograd.grad(expected, moved)
    loss, derivative = divergence('w', moved)
    assert torch.allclose(loss, expected, rtol=1e-4) and torch.allclose(derivative, gradient, rtol=1e-3, atol=1e-4)


def test_damping_keeps_the_loss_positive_where_nothing_was_seen():
    use, shape = KINDS['dense']
    layer = LayerStatistics(torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12), torch.ones(6), torch.tensor(1.))
    layer.second_moment[0, 0, 0, 0] = 5.
    weight = torch.zeros(shape)
    divergence = ExpectedDivergence({'w': weight}, {'w': use}, {'w': layer}, damping=1e-2)
    unseen = weight.clone()
    unseen[0, 2, 1, 1] = 1.
    assert float(divergence('w', unseen)[0]) == pytest.approx(0.5 * 1e-2 * 5 / 12 * 1.01, rel=1e-3)


def divergence_of(model, images, damping, corrects=True):
    """The loss of all convolutions, from statistics of some images."""
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() == 4}
    uses = find_uses(model, list(weights), images[:1])
    if not corrects:
        uses = {name: dataclasses.replace(use, corrector=None) for name, use in uses.items()}
    accelerator = make_accelerator('no', cpu=True)
    statistics, _ = collect_statistics(model, uses, images.split(50), len(images), accelerator)
    return ExpectedDivergence(weights, uses, statistics, damping)


class Layers(nn.Module):
    """A convolution that BatchNorm follows, and one with a bias of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second, self.fc = nn.Conv2d(16, 12, 3, groups=2), nn.Linear(12, 4)
        self.num_classes = 4

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return self.fc(F.relu(self.second(x)).mean((2, 3)))


def test_small_errors_cost_what_is_expected():
    """Random errors of 2 % of all weights: the divergence that comes is that of the expansion, on the average."""
    torch.manual_seed(0)
    model, images = Layers().eval().requires_grad_(False), torch.randn(200, 3, 8, 8)
    model.fc.weight.mul_(5)
    divergence, state = divergence_of(model, images, 1e-6, corrects=False), model.state_dict()
    original, came, expected = model(images).log_softmax(1), [], []
    for _ in range(20):
        noisy = {name: state[name] * (1 + 0.02 * torch.randn(state[name].shape))
                 for name in ('first.weight', 'second.weight')}
        changed = functional_call(model, noisy, (images,)).log_softmax(1)
        came.append(float(F.kl_div(changed, original, log_target=True, reduction='batchmean')))
        expected.append(divergence.total(noisy))
    assert sum(expected) == pytest.approx(sum(came), rel=0.2)
    other = {name: state[name] + 0.1 for name in noisy}  # a change costs the same wherever it begins
    changed = {name: other[name] + noisy[name] - state[name] for name in noisy}
    assert divergence.of_changes(other, changed) == pytest.approx(divergence.total(noisy), rel=1e-2)


@pytest.mark.parametrize('name, entry, output', [
    ('first.weight', 'norm.running_mean', 'norm'), ('second.weight', 'second.bias', 'second')])
def test_corrections_restore_the_means_of_outputs(name, entry, output):
    """Whether an error is added to a mean that is subtracted later, or taken from a bias."""
    torch.manual_seed(0)
    model, images = Layers().eval().requires_grad_(False), torch.randn(100, 3, 8, 8) + 0.5
    divergence, state = divergence_of(model, images, 1e-3), model.state_dict()
    weights = {spec: state[spec] for spec in ('first.weight', 'second.weight')}
    assert all(float(change.abs().max()) == 0 for change in divergence.corrections(weights).values())
    weights[name] = weights[name] * 0.9 + 0.02
    changes = divergence.corrections(weights)
    assert [each for each, change in changes.items() if change.any()] == [entry]

    means = []
    model.get_submodule(output).register_forward_hook(lambda m, i, y: means.append(y.mean((0, 2, 3))))
    for change in ({}, {name: weights[name]}, {name: weights[name], entry: state[entry] + changes[entry]}):
        functional_call(model, change, (images,))
    original, generated, corrected = means
    assert (corrected - original).norm() < 0.01 * (generated - original).norm()


@pytest.mark.parametrize('kind', KINDS)
def test_loss_is_the_expected_divergence_and_factors_are_it_as_squares(kind):
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    weights, layer, error = {'w': torch.randn(shape)}, random_statistics(use, 6), torch.randn(shape)
    divergence = ExpectedDivergence(weights, {'w': use}, {'w': layer}, damping=1e-2)
    curvature = curvatures(weights, {'w': layer}, 1e-2)['w']
    assert curvature.loss(error) == pytest.approx(float(divergence('w', weights['w'] + error)[0]), rel=1e-4)
    assert torch.equal(curvature.rows(curvature.parts(error), error.shape), error)
    own = float((curvature.importance * error.flatten(1).square().sum(1)).sum()) / 2
    for prior in (0., 3.):
        factor = curvature.factor(prior)
        squares = factor.variances[:, None] * (curvature.parts(error) @ factor.mixing.mT).square()
        loss = float((curvature.per_part(curvature.importance)[..., None] * squares).sum() / 2)
        assert loss == pytest.approx(curvature.loss(error) + prior * own, rel=1e-4)


def test_weights_without_statistics_count_by_relative_errors():
    torch.manual_seed(0)
    use, shape = KINDS['dense']
    weights = {'v': torch.randn(4, 5), 'w': torch.randn(shape)}
    divergence = ExpectedDivergence(weights, {'w': use}, {'w': random_statistics(use, 6)}, 1e-3)
    assert divergence.without_statistics == ['v']
    found = divergence.curvatures
    assert list(found) == ['v', 'w'] and found['v'].variance == 1
    lost = {name: found[name].loss(weight) / weight.numel() for name, weight in weights.items()}
    assert lost['v'] == pytest.approx(lost['w'], rel=0.05)  # losing all of a weight costs as much for its size
    assert torch.equal(found['v'].importance, found['v'].importance[:1].expand(4))
    assert float(curvatures({'v': weights['v']}, {}, 1e-3)['v'].importance.min()) > 0


@pytest.mark.parametrize('useless', [0., 1e-20])
def test_a_layer_without_useful_curvature_counts_by_its_activations(useless):
    torch.manual_seed(0)
    use, shape = KINDS['dense']
    weights = {name: torch.randn(shape) for name in ('seen', 'unseen', 'zeros')}
    weights['zeros'].zero_()
    found = {name: random_statistics(use, shape[0]) for name in weights}
    found['unseen'] = LayerStatistics(
        found['unseen'].second_moment, found['unseen'].mean, torch.full((shape[0],), useless),
        torch.tensor(9.))
    curved = curvatures(weights, found, 1e-3)
    chosen = {name: curvature.importance for name, curvature in curved.items()}
    assert torch.equal(chosen['seen'], found['seen'].importance + 1e-3 * found['seen'].importance.mean())
    assert chosen['unseen'].min() == chosen['unseen'].max() > 0
    costs = {name: curved[name].loss(weights[name]) for name in weights}
    assert costs['seen'] / 10 < costs['unseen'] < costs['seen'] * 10
    assert all(torch.isfinite(importance).all() and (importance > 0).all() for importance in chosen.values())


def test_moments_without_full_rank_are_damped_by_themselves():
    moment = torch.ones(1, 1, 5, 5) - 1e-3 * torch.eye(5)  # rounding has left a negative eigenvalue
    factor = Curvature(torch.ones(3), moment).factor()
    assert torch.isfinite(factor.mixing).all() and (factor.variances > 0).all()
