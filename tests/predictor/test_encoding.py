"""Features of kernels: UOS-RFF, plain RFF and NeRN's, compared with their formulas."""
import math

import pytest
import torch

from timm_sbs.common.config import EncodingConfig, GeneratorConfig, OrderingConfig
from timm_sbs.predictor import encoding
from timm_sbs.predictor.encoding import FREQUENCY_STEPS, draw_frequencies, encode
from timm_sbs.predictor.tokens import WeightSpec

PATH, GRID = OrderingConfig('layer', 'path'), OrderingConfig('nothing', 'grid')
SPECS = [WeightSpec('a', (4, 4, 3, 3)), WeightSpec('b', (8, 4, 3, 3))]


def coordinates(*args):
    return torch.cat(encoding.coordinates(*args))


def frequencies_of(config=EncodingConfig(), ordering=PATH):
    return draw_frequencies(GeneratorConfig(ordering, config))


def test_uos_rff_follows_the_stated_formula():
    config = EncodingConfig(num_frequencies=5, layer_bandwidth=3., bandwidth=2., bandwidth_exponent=0.5, seed=1)
    b = frequencies_of(config).double()
    features = encode(coordinates(SPECS, PATH, config), b.float(), config)
    layer, position = 1, 9  # of the second layer, whose N is 32
    angle = 2 * math.pi * (b[:, 0] * 3. * layer / 2 + b[:, 1] * 2. * math.sqrt(32) * position / 32)
    expected = torch.cat([angle.sin(), angle.cos()]).float()
    torch.testing.assert_close(features[16 + position], expected, atol=1e-6, rtol=0)
    assert features.shape == (48, GeneratorConfig(PATH, config).feature_width) and features.dtype == torch.float32


@pytest.mark.parametrize('exponent, ends', [(0., [2 * 15 / 16, 2 * 31 / 32]), (1., [2 * 15, 2 * 31])])
def test_the_bandwidth_of_a_layer_grows_with_its_kernels_by_the_exponent(exponent, ends):
    x = coordinates(SPECS, PATH, EncodingConfig(bandwidth=2., bandwidth_exponent=exponent))
    assert [x[15, 1], x[-1, 1]] == pytest.approx(ends)


def test_the_bandwidth_of_a_grid_follows_each_axis():
    x = coordinates(SPECS, GRID, EncodingConfig(bandwidth=1., bandwidth_exponent=1.))
    assert x.shape == (48, 3) and x[-1].tolist() == pytest.approx([4. * 1 / 2, 7., 3.])


def test_positional_encoding_is_nerns():
    config = EncodingConfig(kind='positional', base=0.76, levels=40)
    features = encode(coordinates(SPECS, GRID, config), frequencies_of(config, GRID), config)
    assert features.shape == (48, 240) == (48, GeneratorConfig(GRID, config).feature_width)
    index = torch.tensor([1., 7., 3.], dtype=torch.float64)  # layer, filter, channel of the last kernel
    angles = (index[:, None] * math.pi * 0.76 ** torch.arange(40, dtype=torch.float64)).flatten()
    torch.testing.assert_close(features[-1], torch.cat([angles.sin(), angles.cos()]).float(), atol=1e-6, rtol=0)


def test_a_folded_layer_is_encoded_like_one_of_as_many_kernels_as_it_has_positions():
    folded = OrderingConfig('layer', 'path', max_positions=16)
    x = encoding.coordinates(SPECS, folded, EncodingConfig(bandwidth=1., bandwidth_exponent=0.5))
    assert [len(part) for part in x] == [16, 8]
    assert x[1][:, 1].tolist() == pytest.approx([position / math.sqrt(8) for position in range(8)])
    grid = OrderingConfig('nothing', 'grid', max_positions=10)
    rows = encoding.coordinates(SPECS, grid, EncodingConfig(bandwidth_exponent=1.))
    assert rows[0].tolist() == [[0., 0., column] for column in range(4)]
    assert rows[1].tolist() == [[2., row, column] for row in range(2) for column in range(4)]


def test_frequencies_come_from_the_seed_and_are_exact_in_16_bits():
    first = frequencies_of(EncodingConfig(seed=3))
    assert torch.equal(first, frequencies_of(EncodingConfig(seed=3)))
    assert not torch.equal(first, frequencies_of(EncodingConfig(seed=4)))
    assert first.shape == (64, 2) and abs(float(first.std()) - 1) < 0.15
    assert torch.equal(first * FREQUENCY_STEPS, (first * FREQUENCY_STEPS).to(torch.int16).float())


def test_on_the_longest_paths_angles_are_exact_and_kernels_have_different_features():
    """Thousands of turns: float32 angles would be off by about 1e-3."""
    config = EncodingConfig(bandwidth_exponent=0.75, num_frequencies=4)
    frequencies = frequencies_of(config)
    x = coordinates([WeightSpec('large', (512, 512, 3, 3))], PATH, config)[-1:]
    turns = (x.double() @ frequencies.double().T)[0]
    assert turns.abs().max() > 1000
    exact = [math.sin(2 * math.pi * math.fmod(float(t), 1)) for t in turns]
    assert encode(x, frequencies, config)[0, :4].tolist() == pytest.approx(exact, abs=1e-6)
    half = torch.tensor([[0., 0.], [0., 0.5 * 4096 ** 0.5]], dtype=torch.float64)
    start, middle = encode(half, frequencies_of(), EncodingConfig())
    assert (start - middle).abs().max() > 0.5
