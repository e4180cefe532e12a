"""Rounding by second order: cheaper than to the nearest in divergence and bits together, for all kinds of layers."""
import dataclasses

import pytest
import torch
from layers import KINDS, random_statistics

from timm_sbs.codec.quantization import QuantizedTensor, dequantize, step_sizes
from timm_sbs.training.losses.divergence import Curvature, curvatures
from timm_sbs.training.losses.weight_uses import Use
from timm_sbs.training.rounding import one_weight
from timm_sbs.training.rounding.all_weights import entropy_bits
from timm_sbs.training.rounding.one_weight import QUICK, THOROUGH, round_weight, step_code


def layer(kind, outputs=48):
    """A weight of many rows, whose bits have a meaning."""
    torch.manual_seed(0)
    use, shape = KINDS[kind]
    weight = torch.randn(outputs, *shape[1:])
    return weight, curvatures({'w': weight}, {'w': random_statistics(use, outputs)}, 1e-3)['w']


def nearest(weight, codes):
    return QuantizedTensor((weight / step_sizes(codes)).round().int(), codes)


def cost(weight, curvature, rounded, slope):
    return curvature.loss(dequantize(rounded) - weight) + slope * entropy_bits(rounded.integers)


@pytest.mark.parametrize('kind', KINDS)
def test_divergence_and_bits_together_are_fewer(kind):
    weight, curvature = layer(kind)
    slope = 0.5
    found = [round_weight(weight, curvature, slope, again) for again in (QUICK, THOROUGH)]
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


@pytest.mark.parametrize('use', [Use(1, 1, 96, 7), Use(2, 3, 64, 7)])
def test_rows_keep_their_length_where_errors_along_them_cost_more(use):
    """By the part of each row's outputs that is left: cheap integers are small."""
    torch.manual_seed(0)
    weight = torch.randn(48, use.blocks * use.size)
    curvature = curvatures({'w': weight}, {'w': random_statistics(use, 48)}, 1e-3)['w']
    rows = curvature.parts(weight)
    pulled = rows @ curvature.matrix

    def left(coupling):
        rounded = dequantize(round_weight(weight, dataclasses.replace(curvature, coupling=coupling), 10., QUICK))
        return (curvature.parts(rounded) * pulled).sum(-1) / (rows * pulled).sum(-1)

    alone, little, much = (left(coupling) for coupling in (1., 3., 1000.))
    assert alone.mean() < 0.9
    assert alone.mean() < little.mean() < much.mean()
    assert (1 - much).square().mean() < (1 - alone).square().mean() / 2
    assert much.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize('moment', [True, False])
def test_a_slope_too_high_leaves_zeros_and_a_low_one_the_weight(moment):
    weight, curvature = layer('dense')
    curvature = curvature if moment else Curvature(curvature.importance)
    assert not round_weight(weight, curvature, 1e6).integers.any()
    assert torch.allclose(dequantize(round_weight(weight, curvature, 1e-12)), weight, atol=1e-3)


@pytest.mark.parametrize('kind', KINDS)
def test_no_change_of_one_integer_is_better(kind, monkeypatch):
    """Where bits cost next to nothing, values are settled again until each has the least divergence with the others."""
    weight, curvature = layer(kind, outputs=12)
    code = step_code(curvature, 0.5)
    monkeypatch.setattr(one_weight, 'step_code', lambda *_: code)
    rounded = round_weight(weight, curvature, 1e-9, passes=20)
    least = curvature.loss(dequantize(rounded) - weight)
    for index in range(weight.numel()):
        for change in (1, -1):
            integers = rounded.integers.clone(memory_format=torch.contiguous_format)
            integers.view(-1)[index] += change
            assert curvature.loss(dequantize(QuantizedTensor(integers, rounded.codes)) - weight) > least * (1 - 1e-5)


def test_values_of_independent_inputs_are_settled_as_if_each_were_alone():
    """What the prior takes from a value it gets back, for its own bits are known."""
    torch.manual_seed(0)
    weight, importance = torch.randn(1000, 12), torch.rand(1000) + 0.5
    alone = round_weight(weight, Curvature(2 * importance), 0.05, QUICK).integers
    together = round_weight(weight, Curvature(importance, 2 * torch.eye(12)[None, None]), 0.05, QUICK)
    assert (together.integers != alone).float().mean() < 0.01


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


def test_groups_are_rounded_each_by_its_own_statistics():
    weight, curvature = layer('groups')
    moved = Curvature(curvature.importance.roll(16), curvature.moment.roll(1, 0), curvature.damping)
    integers = round_weight(weight, curvature, 1.).integers
    assert torch.equal(round_weight(weight.roll(16, 0), moved, 1.).integers, integers.roll(16, 0))


def test_the_number_of_columns_at_a_time_changes_nothing(monkeypatch):
    weight, curvature = layer('dense')
    whole = round_weight(weight, curvature, 0.3).integers
    monkeypatch.setattr(one_weight, 'COLUMNS', 5)
    assert torch.equal(round_weight(weight, curvature, 0.3).integers, whole)
