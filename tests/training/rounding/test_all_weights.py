"""Rounding of several weights into a number of bits."""
import pytest
import torch

from timm_sbs.codec.quantization import dequantize
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.errors import ConfigError
from timm_sbs.training.losses.divergence import curvatures
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.rounding import all_weights
from timm_sbs.training.rounding.all_weights import entropy_bits, round_to_bits
from timm_sbs.training.rounding.one_weight import round_weight

NAMES = 'conv1.weight', 'layer1.0.conv1.weight', 'linear.weight'


@pytest.fixture(scope='module')
def network(small_model, images):
    """Some weights, stem and classifier among them, and their curvatures by 100 images of the demo."""
    weights = {name: small_model.state_dict()[name] for name in NAMES}
    uses = find_uses(small_model, NAMES, images[0][:1])
    assert list(uses) == list(NAMES)
    accelerator = make_accelerator('no', cpu=True)
    statistics = collect_statistics(small_model, uses, images[0][::5].split(50), 100, accelerator)[0]
    return weights, curvatures(weights, statistics, 1e-3)


def divergence(network, rounded):
    weights, curvature = network
    return sum(curvature[name].loss(dequantize(t) - weights[name]) for name, t in rounded.tensors.items())


def test_entropy():
    assert entropy_bits(torch.tensor([[3, 3], [0, -1]])) == pytest.approx(6)
    assert entropy_bits(torch.zeros(10)) == 0


def test_bits_are_as_many_as_wanted_and_more_of_them_are_better(network):
    weights, curvature = network
    values = sum(weight.numel() for weight in weights.values())
    found = []
    for bits in (1.5 * values, 3. * values):
        rounded = round_to_bits(weights, curvature, bits)
        assert 0.98 * bits < rounded.bits <= bits
        found.append(divergence(network, rounded))
    assert found[1] < 0.5 * found[0]


def test_few_bits_are_found_where_zeros_make_zeros_cheaper(small_model):
    """Without statistics a slope twice as high leaves a quarter of the bits or less."""
    weights = {name: p.detach() for name, p in small_model.named_parameters() if p.dim() > 1}
    wanted = 0.3 * sum(weight.numel() for weight in weights.values())
    assert 0.98 * wanted < round_to_bits(weights, curvatures(weights, {}, 1e-3), wanted).bits <= wanted


@pytest.mark.parametrize('kind, bits', [('uniform', 0.5), ('normal', 1.), ('long tails', 0.5), ('long tails', 10.)])
def test_weights_of_any_distribution(kind, bits):
    """A first slope that leaves nothing but zeros is no reason to give up, nor is one with the finest steps."""
    generator = torch.Generator().manual_seed(0)
    shape = 32, 16, 3, 3
    weight = torch.rand(shape, generator=generator) - 0.5 if kind == 'uniform' else torch.randn(
        shape, generator=generator)
    if kind == 'long tails':
        weight = weight ** 3
    rounded = round_to_bits({'a': weight}, curvatures({'a': weight}, {}, 1e-3), bits * weight.numel())
    assert 0.85 * bits < rounded.bits / weight.numel() <= bits


def test_weights_that_need_fewer_bits_are_rounded_a_few_times(monkeypatch):
    """Those of a pruned network: the finest steps take no more."""
    generator, calls = torch.Generator().manual_seed(0), []
    weight = torch.randn(32, 16, 3, 3, generator=generator) * (torch.rand(32, 16, 3, 3, generator=generator) < 0.1)
    monkeypatch.setattr(all_weights, 'round_weight', lambda *args: calls.append(args) or round_weight(*args))
    rounded = round_to_bits({'a': weight}, curvatures({'a': weight}, {}, 1e-3), 8. * weight.numel())
    assert len(calls) <= 6 and torch.allclose(rounded.values['a'], weight, atol=2e-3)


def test_statistics_are_worth_bits(network):
    """With them a network diverges less, by their own measure, than when rounded without."""
    weights, curvature = network
    values = sum(weight.numel() for weight in weights.values())
    without = round_to_bits(weights, curvatures(weights, {}, 1e-3), 2. * values)
    assert divergence(network, round_to_bits(weights, curvature, 2. * values)) < 0.3 * divergence(network, without)


def test_too_few_bits_are_refused():
    weights = {'a': torch.randn(32, 16, generator=torch.Generator().manual_seed(0))}
    curved = curvatures(weights, {}, 1e-3)
    with pytest.raises(ConfigError, match=r'10 bits are too few .*--bytes.*0\.5 bits per weight make 256\.'):
        round_to_bits(weights, curved, 10.)
    assert 0 < round_to_bits(weights, curved, 256).bits <= 256
