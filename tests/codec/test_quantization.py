import pytest
import torch

from timm_sbs.codec.matrices import encode_matrices
from timm_sbs.codec.quantization import (
    code_for_bits,
    dequantize,
    layer_names,
    leaning_to_exact,
    predictor_codes,
    quantize,
    rounded_predictor,
)
from timm_sbs.common.config import PredictorConfig, QuantizationConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.predictor.generator import relative_error
from timm_sbs.predictor.network import Predictor

BITS = (4., 5., 3.5, 6., 6.)


def quantize_predictor(state, config):
    return {name: quantize(state[name], *codes) for name, codes in predictor_codes(state, config).items()}


@pytest.fixture(scope='module')
def state():
    torch.manual_seed(0)
    predictor = Predictor(32, [9, 25], PredictorConfig(40, 4))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return predictor.state_dict()


def test_layers_in_order_trunk_first(state):
    assert layer_names(state) == ['trunk.0', 'trunk.1', 'trunk.2', 'heads.9', 'heads.25']


def test_what_training_sees_is_what_the_integers_say(state):
    config = QuantizationConfig(BITS)
    integers, rounded = quantize_predictor(state, config), rounded_predictor(state, config)
    assert set(integers) == set(rounded) == set(state) - {'output_scale'}
    for name, tensor in rounded.items():
        assert torch.equal(dequantize(integers[name]), tensor)
        assert torch.equal(integers[name].integers, integers[name].integers.round())


@pytest.mark.parametrize('bits', [2., 5., 8.])
def test_normal_weights_take_as_many_bits_as_asked(bits):
    torch.manual_seed(0)
    weight = torch.randn(200, 400) * torch.logspace(-2, 2, 200)[:, None]
    state = {'trunk.0.weight': weight, 'trunk.0.bias': torch.ones(200)}
    integers = quantize_predictor(state, QuantizationConfig((bits,)))['trunk.0.weight']
    coded = 8 * len(encode_matrices([integers.integers.numpy()[..., None]])) / 80_000
    assert coded == pytest.approx(bits, abs=0.12)


@pytest.mark.parametrize('bits', [3., 7.])
def test_each_bit_halves_the_error(state, bits):
    def error(bits):
        rounded = rounded_predictor(state, QuantizationConfig((bits,) * 5))
        return float((rounded['trunk.1.weight'] - state['trunk.1.weight']).square().mean().sqrt())

    assert error(bits) / error(bits + 1) == pytest.approx(2, rel=0.1)


def test_gradients_pass_the_rounding(state):
    weights = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    rounded = rounded_predictor(weights, QuantizationConfig(BITS))
    sum(tensor.sum() for tensor in rounded.values()).backward()
    assert all(torch.equal(weights[name].grad, torch.ones_like(weights[name])) for name in rounded)


def test_a_row_of_zeros_stays_zero():
    state = {'trunk.0.weight': torch.zeros(3, 8), 'trunk.0.bias': torch.zeros(3)}
    rounded = rounded_predictor(state, QuantizationConfig((4.,)))
    assert not rounded['trunk.0.weight'].any() and not rounded['trunk.0.bias'].any()


def test_bits_for_another_number_of_layers(state):
    with pytest.raises(ConfigError, match='has 3 entries, but the predictor has 5 layers'):
        quantize_predictor(state, QuantizationConfig((4., 4., 4.)))


def test_rows_of_a_predictor_of_any_size():
    weight = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * 1e30
    state = {'trunk.0.weight': weight, 'trunk.0.bias': torch.full((3,), 1e35)}
    rounded = rounded_predictor(state, QuantizationConfig((6.,)))
    assert relative_error(rounded, state) < 1e-3


def test_what_leans_to_the_exact_values_rounds_to_the_same_integers():
    exact = torch.randn(200, generator=torch.Generator().manual_seed(0))
    codes = code_for_bits(exact, 1.5)
    off = quantize(exact, codes).integers + torch.arange(200) % 3 - 1  # as second order rounds: not to the nearest
    values = dequantize(quantize(off * dequantize(quantize(exact.new_ones(1), codes)), codes))
    leaning = leaning_to_exact(values, exact, codes)
    assert torch.equal(quantize(leaning, codes).integers, quantize(values, codes).integers)
    assert ((leaning - values) * (exact - values) >= 0).all() and (leaning != values).float().mean() > 0.9
    assert torch.equal(leaning_to_exact(values, exact, None), values)
    trained = values + 0.3 * dequantize(quantize(exact.new_ones(1), codes))
    assert torch.equal(leaning_to_exact(trained, exact, codes), trained)
