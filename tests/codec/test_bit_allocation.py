import pytest
from conftest import fit_quickly

from timm_sbs.codec.bit_allocation import FEWEST, MOST, Influence, divide_bits, measure_influence
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.predictor.generator import relative_error


def total(influence, bits):
    return sum(b * layer.weights for b, layer in zip(bits, influence))


@pytest.mark.parametrize('mean', [2., 5., 6.7, 8.])
def test_the_mean_is_what_was_asked(mean):
    influence = [Influence(1000, 4.), Influence(5000, 0.1), Influence(100, 3.)]
    bits = divide_bits(influence, mean)
    assert all(FEWEST <= b <= MOST and (16 * b).is_integer() for b in bits)
    assert mean - 0.1 <= total(influence, bits) / 6100 <= mean + 1e-9


def test_sixteen_times_the_error_for_each_weight_gets_two_bits_more():
    bits = divide_bits([Influence(1000, 16.), Influence(1000, 1.), Influence(2000, 2.)], 5.)
    assert bits[0] - bits[1] == pytest.approx(2, abs=0.1) and bits[1] == pytest.approx(bits[2], abs=0.1)


@pytest.fixture(scope='module')
def trained(small_model):
    return fit_quickly(small_model, steps=40, pct=20., linear_layers=4, bits=5.)


def error(artifact, bits):
    return relative_error(artifact.quantized(QuantizationConfig(bits)).as_stored().generator(), artifact.generator())


def test_divided_bits_are_better_than_equal_ones(trained):
    """On real weights, at no more bits in total."""
    predictor = trained.generator.predictor
    influence = measure_influence(trained.generator)
    names = [name for name, p in predictor.named_parameters() if p.dim() == 2]
    assert [layer.weights for layer in influence] == [predictor.get_parameter(n).numel() for n in names]
    bits = divide_bits(influence, 5.)
    assert total(influence, bits) <= total(influence, [5.] * 4)
    assert error(trained, bits) < error(trained, (5.,) * 4)
