"""Curvatures against the expected divergence and sums of squares, for all kinds of layers."""
import pytest
import torch
from layers import KINDS, random_statistics

from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.losses.curvature import Curvature, curvatures
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics


@pytest.mark.parametrize('kind', KINDS)
def test_loss_is_the_expected_divergence_and_factors_are_it_as_squares(kind):
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    weights, layer, error = {'w': torch.randn(shape)}, random_statistics(use, 6), torch.randn(shape)
    divergence = ExpectedDivergence([WeightSpec('w', shape)], weights, {'w': use}, {'w': layer}, damping=1e-2)
    curvature = curvatures(weights, {'w': layer}, 1e-2)['w']
    assert curvature.loss(error) == pytest.approx(float(divergence('w', weights['w'] + error)[0]), rel=1e-4)
    assert torch.equal(curvature.rows(curvature.parts(error), error.shape), error)
    own = float((curvature.importance * error.flatten(1).square().sum(1)).sum()) / 2
    for prior in (0., 3.):
        factor = curvature.factor(prior)
        squares = factor.variances[:, None] * (curvature.parts(error) @ factor.mixing).square()
        loss = float((curvature.per_part(curvature.importance)[..., None] * squares).sum() / 2)
        assert loss == pytest.approx(curvature.loss(error) + prior * own, rel=1e-4)


def test_weights_without_statistics_count_by_relative_errors():
    torch.manual_seed(0)
    use, shape = KINDS['dense']
    weights = {'v': torch.randn(4, 5), 'w': torch.randn(shape)}
    found = curvatures(weights, {'w': random_statistics(use, 6)}, 1e-3)
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
