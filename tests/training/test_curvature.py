"""Curvatures against the expected divergence and sums of squares, for all kinds of layers."""
import pytest
import torch

from timm_sbs.predictor.tokens import WeightSpec
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
