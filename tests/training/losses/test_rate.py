"""The rate: its bits are those of the file, its gradients lower them, and its weight follows what is wanted."""
import numpy as np
import pytest
import torch
from torch import nn

from timm_sbs.codec.matrices import encode_matrices
from timm_sbs.codec.quantization import ROUNDED_LIMIT, code_for_bits, quantize
from timm_sbs.training.losses.rate import Rate


@pytest.fixture(scope='module')
def weights(small_model):
    return {name: p.detach().clone() for name, p in small_model.named_parameters() if p.dim() > 1}


@pytest.fixture(scope='module')
def codes(weights):
    return {name: code_for_bits(weight, 2.) for name, weight in weights.items()}


def coded_bytes(weights, codes):
    integers = [quantize(weight, codes[name], ROUNDED_LIMIT).integers.numpy() for name, weight in weights.items()]
    return len(encode_matrices([part.reshape(*part.shape[:2], -1).astype(np.int64) for part in integers]))


@pytest.mark.parametrize('wanted', [1.2, 4., 10.])
def test_bits_are_nearly_those_of_the_file(weights, wanted):
    codes = {name: code_for_bits(weight, wanted) for name, weight in weights.items()}
    bits = float(Rate(codes, weights).bits(weights))
    assert bits / 8 == pytest.approx(coded_bytes(weights, codes), rel=0.03)


def test_large_integers_are_drawn_to_zero_too(weights):
    """Also the largest, which the file has few of."""
    codes = {name: code_for_bits(weight, 8.) for name, weight in weights.items()}
    parameters = {name: nn.Parameter(weight.clone()) for name, weight in weights.items()}
    rate = Rate(codes, weights)
    rate.add_gradients(parameters, progress=1.)
    inwards = [p.grad * p.detach().sign() for p in parameters.values()]
    far = [(p.detach().abs() > 30 * 2 ** (float(codes[name]) / 16)) for name, p in parameters.items()]
    assert float(torch.cat([part[which] for part, which in zip(inwards, far)]).mean()) > 0


def steps_towards(wanted, weights, codes, steps=50):
    parameters = {name: nn.Parameter(weight.clone()) for name, weight in weights.items()}
    rate = Rate(codes, weights)
    rate.set_target(wanted)
    optimizer = torch.optim.Adam([
        {'params': [p], 'lr': 0.02 * 2 ** (float(codes[name]) / 16)} for name, p in parameters.items()])
    for _ in range(steps):
        optimizer.zero_grad()
        rate.add_gradients(parameters, progress=1.)
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}, rate


def test_gradients_lower_the_bytes_of_the_file(weights, codes):
    before = float(Rate(codes, weights).bits(weights))
    cheaper, _ = steps_towards(0.5 * before, weights, codes)
    assert coded_bytes(cheaper, codes) < 0.8 * coded_bytes(weights, codes)


def test_weight_rises_above_the_wanted_bits_and_falls_below_them(weights, codes):
    rate = Rate(codes, weights)
    before, first = float(rate.bits(weights)), float(rate.log_weight)
    assert float(steps_towards(0.5 * before, weights, codes, steps=5)[1].log_weight) > first
    assert float(steps_towards(2 * before, weights, codes, steps=5)[1].log_weight) < first


def test_derivative_is_the_difference_of_code_lengths():
    """Zeros and ones without neighbours: of 8 numbers, 6 are 0; a number between pays log2(6 / 2) a step more."""
    numbers = nn.Parameter(torch.tensor([0.3, 0., 0., 0., 0., 0., 1., 1.])[:, None])
    rate = Rate({'a': torch.tensor(-16)}, {'a': numbers})  # steps of a half
    with torch.no_grad():
        numbers.mul_(0.5)
    rate.set_target(float(rate.bits({'a': numbers})))
    rate.add_gradients({'a': numbers}, progress=1.)
    assert numbers.grad is not None
    expected = float(rate.log_weight.exp()) * np.log2((6 + 0.02 + 0.02) / (2 + 0.02 + 0.06)) / 0.5 / 8
    assert float(numbers.grad[0]) == pytest.approx(expected, rel=1e-3)


def test_wanted_bits_fall_along_the_ramp(weights, codes):
    """At the start nothing is wanted but what there is, so the weight stays."""
    parameters = {name: nn.Parameter(weight.clone()) for name, weight in weights.items()}
    rate = Rate(codes, weights)
    first = float(rate.log_weight)
    rate.set_target(1.)
    rate.add_gradients(parameters, progress=0.)
    assert float(rate.log_weight) == first
    rate.add_gradients(parameters, progress=0.5)
    assert float(rate.log_weight) > first


def test_gradients_are_added_to_those_of_the_loss_and_scaled_with_them(weights, codes):
    def gradients(scale, there):
        parameters = {name: nn.Parameter(weight.clone()) for name, weight in weights.items()}
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, there)
        rate = Rate(codes, weights)
        rate.set_target(1000.)
        rate.add_gradients(parameters, progress=1., scale=scale)
        return torch.cat([p.grad.flatten() for p in parameters.values()])

    torch.testing.assert_close(gradients(8., 2.) - 2, 8 * gradients(1., 0.), rtol=1e-3, atol=1e-5)


def test_state_of_a_rate_goes_on(weights, codes):
    _, rate = steps_towards(1000., weights, codes, steps=3)
    other = Rate(codes, weights)
    other.load_state_dict(rate.state_dict())
    assert float(other.log_weight) == float(rate.log_weight) and float(other.start_bits) == float(rate.start_bits)
