"""Rounding by second order: cheaper than to the nearest in divergence and bits together, for all kinds of layers."""
import pytest
import torch
from test_curvature import KINDS, random_statistics

from timm_sbs.codec.quantization import QuantizedTensor, dequantize
from timm_sbs.training.losses.curvature import Curvature, curvatures
from timm_sbs.training.steps import second_order_rounding
from timm_sbs.training.steps.rounding_slope import entropy_bits
from timm_sbs.training.steps.second_order_rounding import QUICK, THOROUGH, round_weight, step_code


def layer(kind, outputs=48):
    """A weight of many rows, whose bits have a meaning."""
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    weight = torch.randn(outputs, *shape[1:])
    return weight, curvatures({'w': weight}, {'w': random_statistics(use, outputs)}, 1e-3)['w']


def nearest(weight, codes):
    return QuantizedTensor((weight / dequantize(QuantizedTensor(None, codes))).round().int(), codes)


def cost(weight, curvature, rounded, slope):
    return curvature.loss(dequantize(rounded) - weight) + slope * entropy_bits(rounded.integers)


@pytest.mark.parametrize('kind', KINDS)
def test_divergence_and_bits_together_are_fewer(kind):
    weight, curvature = layer(kind)
    slope = 0.5
    found = [round_weight(weight, curvature, slope, passes=passes) for passes in (QUICK, THOROUGH)]
    plain = nearest(weight, step_code(curvature, slope))
    assert all(r.integers.shape == weight.shape and r.integers.dtype == torch.int32 for r in found)
    quick, thorough = (cost(weight, curvature, rounded, slope) for rounded in found)
    assert thorough <= quick < 0.97 * cost(weight, curvature, plain, slope)
    assert not torch.equal(found[1].integers, torch.zeros_like(found[1].integers))


@pytest.mark.parametrize('kind', ['dense', 'groups and blocks'])
def test_errors_are_made_up_for_by_values_that_follow(kind):
    """Steps alone explain none of it: at the same ones, and with small slopes, divergence is far less."""
    weight, curvature = layer(kind)
    rounded = round_weight(weight, curvature, 1e-3)
    errors = [curvature.loss(dequantize(r) - weight) for r in (rounded, nearest(weight, rounded.codes))]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize('moment', [True, False])
def test_a_slope_too_high_leaves_zeros_and_a_low_one_the_weight(moment):
    weight, curvature = layer('dense')
    curvature = curvature if moment else Curvature(curvature.importance)
    assert not round_weight(weight, curvature, 1e6).integers.any()
    assert torch.allclose(dequantize(round_weight(weight, curvature, 1e-12)), weight, atol=1e-3)


def test_without_statistics_zeros_are_chosen_by_their_bits():
    weight, curvature = layer('dense')
    curvature, slope = Curvature(curvature.importance), 0.02
    rounded, plain = round_weight(weight, curvature, slope), nearest(weight, step_code(curvature, slope))
    assert (rounded.integers == 0).sum() > (plain.integers == 0).sum()
    assert ((rounded.integers - plain.integers) * plain.integers.sign() <= 0).all()
    assert cost(weight, curvature, rounded, slope) < cost(weight, curvature, plain, slope)


def test_steps_have_one_slope():
    curvature = Curvature(torch.tensor([1., 2., 3.]))
    code = step_code(curvature, 0.1)
    assert torch.equal(step_code(Curvature(16 * curvature.importance), 0.1), code - 32)
    assert torch.equal(step_code(curvature, 0.1 / 16), code - 32)
    moment = torch.eye(5).expand(1, 1, 5, 5) * 4  # inputs of twice the size
    assert torch.equal(step_code(Curvature(curvature.importance, moment), 0.1), code - 16)


def test_a_given_step_is_kept():
    weight, curvature = layer('dense')
    assert round_weight(weight, curvature, 1., torch.tensor(-12)).codes == -12


def test_groups_are_rounded_each_by_its_own_statistics():
    weight, curvature = layer('groups')
    moved = Curvature(curvature.importance.roll(16), curvature.moment.roll(1, 0), curvature.damping)
    integers = round_weight(weight, curvature, 1.).integers
    assert torch.equal(round_weight(weight.roll(16, 0), moved, 1.).integers, integers.roll(16, 0))


def test_the_number_of_columns_at_a_time_changes_nothing(monkeypatch):
    weight, curvature = layer('dense')
    whole = round_weight(weight, curvature, 0.3).integers
    monkeypatch.setattr(second_order_rounding, 'COLUMNS', 5)
    assert torch.equal(round_weight(weight, curvature, 0.3).integers, whole)
