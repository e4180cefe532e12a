"""Statistics against what torch computes from its own unfolded inputs, and against derivatives taken one by one."""
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.errors import SbsError
from timm_sbs.data.outputs import outputs_of
from timm_sbs.training.losses import statistics, weight_uses
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses

CPU = make_accelerator('no', cpu=True)


class Net(nn.Module):
    """A convolution of any kind between a stem and a classifier."""

    def __init__(self, conv):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 8, 3), conv, nn.LazyLinear(4)

    def forward(self, x):
        self.inputs = F.relu(self.stem(x))
        self.outputs = self.conv(self.inputs)
        return self.fc(F.avg_pool2d(F.relu(self.outputs), (2, 2)).flatten(1))


def without_correctors(uses):
    return {name: dataclasses.replace(use, corrector=None) for name, use in uses.items()}


def collect(model, images, names=('conv.weight',), batch=16, centred=False, **kwargs):
    uses = find_uses(model.requires_grad_(False), names, images[:1])
    uses = uses if centred else without_correctors(uses)
    return uses, collect_statistics(uses=uses, model=model, batches=images.split(batch), num_images=len(images),
                                    accelerator=CPU, **kwargs)[0]


def correlation(moment, each, summed, **tolerance):
    """By which a moment lies between those of single patches and of their sums."""
    found = float(((moment - each) * (summed - each)).sum() / (summed - each).square().sum())
    assert torch.allclose(moment, each.lerp(summed, found), **tolerance)
    return found


@pytest.fixture(autouse=True)
def everything(monkeypatch):
    """All positions, of as few images as a test has."""
    monkeypatch.setattr(statistics, 'FEWEST_IMAGES', 1)
    monkeypatch.setattr(statistics, 'FEWEST_POSITIONS', 10_000)


@pytest.mark.parametrize('kind', [
    dict(kernel_size=3, stride=2, padding=2, dilation=2), dict(kernel_size=(1, 5), padding=(0, 2), groups=4),
    dict(kernel_size=4, padding='same')])
def test_moments_are_those_of_the_unfolded_inputs(kind):
    torch.manual_seed(0)
    model = Net(nn.Conv2d(8, 8, **kind))
    images = torch.randn(20, 3, 12, 12)
    with torch.no_grad():
        model(images)
    uses, found = collect(model, images)
    conv, groups = model.conv, model.conv.groups
    with torch.no_grad():
        model(images)
        inputs, padding = model.inputs, conv.padding
        if padding == 'same':
            left, padding = (conv.kernel_size[0] - 1) // 2, 0
            inputs = F.pad(inputs, (left, conv.kernel_size[0] - 1 - left) * 2)
        patches = F.unfold(inputs, conv.kernel_size, conv.dilation, padding, conv.stride)  # [N, C k, L]
    patches = patches.unflatten(1, (groups, -1))
    layer = found['conv.weight']
    sums = patches.sum(-1)
    each, summed = (torch.einsum('ngil,ngjl->gij', part, part) / len(images) for part in (patches, sums[..., None]))
    assert 0 < correlation(layer.second_moment[:, 0], each, summed, rtol=1e-4, atol=1e-5) < 1
    assert torch.allclose(layer.mean[:, 0], patches.mean((0, 3)), rtol=1e-4, atol=1e-6)
    assert uses['conv.weight'].positions == patches.shape[-1]


class Bfloat16:
    """An accelerator of one process; a real one cannot change its precision within a process."""
    device, mixed_precision = torch.device('cpu'), 'bf16'
    process_index, num_processes, is_main_process = 0, 1, True

    def autocast(self):
        return torch.autocast('cpu', torch.bfloat16)

    def reduce(self, tensor, reduction):
        return tensor


class Windows(nn.Module):
    """Attention in windows has the windows of an image in the batch."""

    def __init__(self):
        super().__init__()
        self.qkv, self.fc = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x):
        tokens = x.unflatten(3, (4, 2)).permute(0, 3, 2, 4, 1).reshape(-1, 16, 3)  # 4 windows of an image
        self.tokens = tokens.detach().reshape(len(x), -1, 3)
        return self.fc(self.qkv(tokens).view(len(x), -1, 5).mean(1))


def test_positions_may_lie_in_the_batch():
    torch.manual_seed(0)
    model, images = Windows(), torch.randn(20, 3, 8, 8) + 1
    uses, found = collect(model, images, ['qkv.weight'], centred=True)
    layer = found['qkv.weight']
    with torch.no_grad():
        model(images)
    tokens = model.tokens
    assert uses['qkv.weight'].positions == 64
    assert torch.allclose(layer.mean[0, 0], tokens.mean((0, 1)), atol=1e-5)
    centred = (tokens - tokens.mean((0, 1))).sum(1)
    assert torch.allclose(layer.second_moment[0, 0], centred.T @ centred / 20, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('fewest, accelerator', [(1, CPU), (10_000, Bfloat16())])
def test_centred_moments_have_no_negative_eigenvalue(monkeypatch, fewest, accelerator):
    """Whatever is sampled, and in lower precision too: else the loss would have no lower limit."""
    monkeypatch.setattr(statistics, 'FEWEST_POSITIONS', fewest)
    torch.manual_seed(0)
    model, images = Net(nn.Conv2d(8, 2, 3)), torch.randn(40, 3, 12, 12) + 3
    model(images)
    uses = find_uses(model, ['conv.weight'], images[:1])
    assert uses['conv.weight'].corrector == 'conv.bias'
    found, _ = collect_statistics(model.requires_grad_(False), uses, images.split(8), 40, accelerator)
    values = torch.linalg.eigvalsh(found['conv.weight'].second_moment[0, 0].double())
    assert values.min() > -1e-5 * values.max()


def test_linear_layers_of_tokens():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(6, 5), nn.Flatten(1), nn.Linear(15, 4))
    images = torch.randn(9, 3, 2, 3)
    _, found = collect(model, images, ['1.weight', '3.weight'])
    tokens, layer = images.flatten(2), found['1.weight']
    each, summed = (torch.einsum('nti,ntj->ij', part, part) / 9 for part in (tokens, tokens.sum(1, keepdim=True)))
    assert 0 < correlation(layer.second_moment[0, 0], each, summed, rtol=1e-4, atol=1e-5) < 1
    assert found['3.weight'].importance.shape == (4,)


def test_blocks_are_the_diagonal_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    model, images = Net(nn.Conv2d(8, 8, 3)), torch.randn(6, 3, 12, 12)
    model(images)
    whole = collect(model, images)[1]['conv.weight'].second_moment
    monkeypatch.setattr(weight_uses, 'LARGEST_BLOCK', 20)
    uses, found = collect(model, images)
    assert (uses['conv.weight'].blocks, uses['conv.weight'].size) == (4, 18)
    for block, moment in enumerate(found['conv.weight'].second_moment[0]):
        rows = slice(18 * block, 18 * block + 18)
        assert torch.allclose(moment, whole[0, 0, rows, rows], rtol=1e-4)


@pytest.mark.parametrize('num_classes, task', [(4, 'auto'), (1, 'auto'), (4, 'multi-label'), (0, 'auto')])
def test_importance_is_the_fisher_information_of_the_outputs(num_classes, task):
    """The second derivative of the divergence, whatever the outputs mean, carried back to the layer's outputs."""
    torch.manual_seed(0)
    model, images = Net(nn.Conv2d(8, 8, 3)), torch.randn(48, 3, 10, 10)
    model(images)
    model.fc = nn.Linear(model.fc.in_features, max(num_classes, 1) if num_classes else 4).requires_grad_(False)
    model.fc.weight.mul_(5)
    model.num_classes = num_classes
    model.requires_grad_(False)
    logits = model(images.requires_grad_())
    kind = outputs_of(model, task)
    derivatives = torch.stack([torch.autograd.grad(column.sum(), model.outputs, retain_graph=True)[0]
                               for column in logits.unbind(1)], 1)  # [B, outputs of the network, O, H, W]
    fisher = torch.stack([torch.autograd.functional.hessian(
        lambda found: kind.divergences(found, row[None]).sum(), row[None])[0, :, 0] for row in logits.detach()])
    each = torch.einsum('bkohw,bkl,blohw->bohw', derivatives, fisher, derivatives)
    drawn = [collect(model, images.detach(), batch=48, seed=seed, outputs=kind)[1]['conv.weight'] for seed in range(12)]
    importance = each.mean((0, 2, 3))
    assert torch.allclose(torch.stack([layer.importance for layer in drawn]).mean(0), importance, rtol=0.15)
    deviations = (model.outputs - model.outputs.mean((0, 2, 3), keepdim=True)).square()
    coupling = (each * deviations).mean((0, 2, 3)).sum() / (importance * deviations.mean((0, 2, 3))).sum()
    assert coupling > 1.05
    assert torch.allclose(torch.stack([layer.coupling for layer in drawn]).mean(), coupling, rtol=0.1)


def test_outputs_that_an_activation_has_overwritten_tell_no_coupling():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5)), \
        torch.randn(16, 3, 6, 6)
    first, last = collect(model, images, ['0.weight', '3.weight'])[1].values()
    assert first.coupling == 1 and first.importance.any()
    assert last.coupling != 1


def test_sampled_positions_have_the_same_expectation(monkeypatch):
    torch.manual_seed(0)
    model, images = Net(nn.Conv2d(8, 4, 3)), torch.randn(200, 3, 16, 16)
    model(images)
    whole = collect(model, images)[1]['conv.weight']
    monkeypatch.setattr(statistics, 'FEWEST_POSITIONS', 1)
    sampled = collect(model, images, batch=4)[1]['conv.weight']
    assert not torch.equal(sampled.second_moment, whole.second_moment)
    assert torch.allclose(sampled.second_moment.diagonal(dim1=-2, dim2=-1),
                          whole.second_moment.diagonal(dim1=-2, dim2=-1), rtol=0.1)


class Offset(nn.Module):
    """A layer whose inputs vary little about a large mean."""

    def __init__(self, offset, scale=1.):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.offset, self.scale = offset, scale

    def forward(self, x):
        return self.scale * self.fc(self.norm(self.conv(x + self.offset)).mean((2, 3)))


@pytest.mark.parametrize('offset', [0., 1e4])
def test_variance_beside_a_large_mean_is_not_lost(offset):
    torch.manual_seed(0)
    images = torch.randn(64, 3, 6, 6)
    _, found = collect(Offset(offset).eval(), images, centred=True)
    expected = torch.cov(images.movedim(1, 0).flatten(1), correction=0) * 36
    moment, summed = found['conv.weight'].second_moment[0, 0], torch.cov(images.sum((2, 3)).T, correction=0)
    assert correlation(moment, expected, summed, rtol=2e-2, atol=0.2) == pytest.approx(1, abs=0.01)
    assert torch.linalg.eigvalsh(moment.double()).min() > 0
    assert torch.allclose(found['conv.weight'].mean.flatten(), images.mean((0, 2, 3)) + offset, rtol=1e-5, atol=1e-5)


def test_certain_predictions_have_a_curvature():
    """It is the same, up to its size, for logits of any size, and rests on more than an image."""
    images, importances = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0)), []
    for factor in (20., 20. * 1e4):
        torch.manual_seed(1)
        importances.append(collect(Offset(0., factor).eval(), images, batch=32)[1]['conv.weight'].importance)
    first, second = (importance / importance.mean() for importance in importances)
    assert torch.isfinite(second).all() and torch.allclose(first, second, rtol=0.5)


def test_correlation_is_that_of_derivatives_at_two_positions():
    """After a global average they are equal; where each position has a weight of its own, they are independent."""
    class Pooled(Net):
        def forward(self, x):
            return self.fc(self.conv(self.stem(x)).mean((2, 3)))

    class Scattered(Net):
        def forward(self, x):
            return self.fc(self.conv(self.stem(x)).flatten(1))

    found = []
    for kind in (Pooled, Scattered):
        torch.manual_seed(0)
        model, images = kind(nn.Conv2d(8, 8, 1)), torch.randn(64, 3, 10, 10)
        model(images)
        layer = collect(model, images)[1]['conv.weight']
        with torch.no_grad():
            inputs = model.stem(images).flatten(2)
        each, summed = (torch.einsum('nil,njl->ij', part, part) / 64 for part in (inputs, inputs.sum(2, keepdim=True)))
        found.append(correlation(layer.second_moment[0, 0], each, summed, rtol=1e-3, atol=1e-3))
    assert found[0] == pytest.approx(1, abs=1e-4) and found[1] < 0.1


def test_shared_modules_add_up():
    class Twice(Net):
        def forward(self, x):
            x = self.stem(x)
            self.first = x.detach()
            self.second = self.conv(x)
            return self.fc(self.conv(self.second).flatten(1))

    torch.manual_seed(0)
    model, images = Twice(nn.Conv2d(8, 8, 1)), torch.randn(5, 3, 6, 6)
    model(images)
    _, found = collect(model, images)
    with torch.no_grad():
        model(images)
        inputs = torch.cat([model.first.flatten(2), model.second.flatten(2)], 2)
    each = torch.einsum('nil,njl->ij', inputs, inputs) / 5
    summed = sum(torch.einsum('ni,nj->ij', x.sum((2, 3)), x.sum((2, 3))) for x in (model.first, model.second)) / 5
    assert 0 < correlation(found['conv.weight'].second_moment[0, 0], each, summed, rtol=1e-4, atol=1e-5) < 1


def test_bad_images_are_one_sentence():
    model, images = Net(nn.Conv2d(8, 8, 3)), torch.randn(5, 3, 8, 8)
    model(images)
    uses, _ = collect(model, images)
    with pytest.raises(SbsError, match='taken from 0 image'):
        collect_statistics(model, uses, [], 5, CPU)
    with pytest.raises(SbsError, match='outputs that are not finite'):
        collect_statistics(model, uses, [images * float('nan')], 5, CPU)
