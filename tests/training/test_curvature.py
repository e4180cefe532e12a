"""Curvatures against the expected divergence and sums of squares, for all kinds of layers."""
import pytest
import torch
from test_statistics import collect
from torch import nn

from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.losses import statistics as losses_statistics
from timm_sbs.training.losses.curvature import Curvature, curvatures
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics
from timm_sbs.training.losses.weight_uses import Use

KINDS = {
    'dense': (Use(1, 1, 12, 7), (6, 3, 2, 2)), 'blocks': (Use(1, 3, 4, 7), (6, 3, 2, 2)),
    'groups': (Use(3, 1, 8, 7), (6, 2, 2, 2)), 'depthwise': (Use(6, 1, 4, 7), (6, 1, 2, 2)),
    'groups and blocks': (Use(2, 2, 5, 7), (6, 10))}


def random_statistics(use, outputs):
    roots = torch.randn(use.groups, use.blocks, use.size, 2 * use.size)
    return LayerStatistics(
        roots @ roots.mT, torch.randn(use.groups, use.blocks, use.size), torch.tensor(0.25), torch.rand(outputs))


@pytest.mark.parametrize('kind', KINDS)
def test_loss_is_the_expected_divergence(kind):
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    weights, layer = {'w': torch.randn(shape)}, random_statistics(use, 6)
    divergence = ExpectedDivergence([WeightSpec('w', shape)], weights, {'w': use}, {'w': layer}, damping=1e-2)
    curvature = curvatures(weights, {'w': layer}, 1e-2)['w']
    error = torch.randn(shape)
    assert curvature.loss(error) == pytest.approx(float(divergence('w', weights['w'] + error)[0]), rel=1e-4)
    assert torch.equal(curvature.rows(curvature.parts(error), error.shape), error)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('prior', [0., 3.])
def test_factors_are_the_curvature_as_squares(kind, prior):
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    layer = random_statistics(use, 6)
    curvature = curvatures({'w': torch.randn(shape)}, {'w': layer}, 1e-2)['w']
    error = torch.randn(shape)
    factor, parts = curvature.factor(prior), curvature.parts(error)
    squares = factor.variances[:, None] * (parts @ factor.mixing).square()
    loss = float((curvature.per_part(curvature.importance)[..., None] * squares).sum() / 2)
    own = float((curvature.importance * error.flatten(1).square().sum(1)).sum()) / 2
    assert loss == pytest.approx(curvature.loss(error) + prior * own, rel=1e-4)


def test_weights_without_statistics_count_by_relative_errors_of_rows():
    torch.manual_seed(0)
    use, shape = KINDS['dense']
    weights = {'v': torch.randn(4, 5), 'w': torch.randn(shape)}
    weights['v'][2] *= 0.1
    found = curvatures(weights, {'w': random_statistics(use, 6)}, 1e-3)
    assert list(found) == ['v', 'w'] and found['v'].variance == 1
    lost = {name: found[name].loss(weight) / weight.numel() for name, weight in weights.items()}
    assert lost['v'] == pytest.approx(lost['w'], rel=0.05)  # losing all of a weight costs as much for its size
    assert torch.equal(found['v'].importance, found['v'].importance[:1].expand(4))


def test_without_any_statistics():
    weights = {'v': torch.randn(4, 5)}
    assert float(curvatures(weights, {}, 1e-3)['v'].importance.min()) > 0
    with pytest.raises(ValueError, match='without statistics'):
        Curvature(torch.ones(4)).damped()


class Offset(nn.Module):
    """A layer whose inputs vary little about a large mean."""

    def __init__(self, offset, scale=1.):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.offset, self.scale = offset, scale

    def forward(self, x):
        return self.scale * self.fc(self.norm(self.conv(x + self.offset)).mean((2, 3)))


@pytest.fixture()
def few(monkeypatch):
    """All positions, of as few images as a test has."""
    monkeypatch.setattr(losses_statistics, 'FEWEST_IMAGES', 1)
    monkeypatch.setattr(losses_statistics, 'FEWEST_POSITIONS', 10_000)


@pytest.mark.parametrize('offset', [0., 100., 1e4])
def test_variance_beside_a_large_mean_is_not_lost(few, offset):
    torch.manual_seed(0)
    images = torch.randn(64, 3, 6, 6)
    _, found = collect(Offset(offset).eval(), images, centred=True)
    expected = torch.cov(images.movedim(1, 0).flatten(1), correction=0) * 36
    moment, correlation = found['conv.weight'].second_moment[0, 0], found['conv.weight'].correlation
    sums = images.sum((2, 3))
    summed = torch.cov(sums.T, correction=0)
    assert torch.allclose(moment, expected.lerp(summed, correlation), rtol=2e-2, atol=0.2)
    assert torch.linalg.eigvalsh(moment.double()).min() > 0
    assert torch.allclose(found['conv.weight'].mean.flatten(), images.mean((0, 2, 3)) + offset, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('scale', [1., 30., 1e4])
def test_certain_predictions_have_a_curvature(few, scale):
    """It is the same, up to its size, for logits of any size, and rests on more than an image."""
    torch.manual_seed(0)
    images = torch.randn(32, 3, 6, 6)
    importances = []
    for factor in (20., 20. * scale):
        torch.manual_seed(1)
        importances.append(collect(Offset(0., factor).eval(), images, batch=32)[1]['conv.weight'].importance)
    first, second = (importance / importance.mean() for importance in importances)
    assert torch.isfinite(second).all() and torch.allclose(first, second, rtol=0.5)


@pytest.mark.parametrize('useless', [0., 1e-20])
def test_a_layer_without_useful_curvature_counts_by_its_activations(useless):
    torch.manual_seed(0)
    use, shape = KINDS['dense']
    weights = {name: torch.randn(shape) for name in ('seen', 'unseen', 'zeros')}
    weights['zeros'].zero_()
    found = {name: random_statistics(use, shape[0]) for name in weights}
    found['unseen'] = LayerStatistics(
        found['unseen'].second_moment, found['unseen'].mean, torch.tensor(0.), torch.full((shape[0],), useless))
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
