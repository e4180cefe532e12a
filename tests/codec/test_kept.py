import copy
from types import MappingProxyType

import pytest
import timm
import torch
from torch import nn

from timm_sbs.codec.kept import dequantize_kept, kept_codes_shape, quantize_kept, stored_kept
from timm_sbs.codec.tensor_file import decode_quantized, encode_quantized
from timm_sbs.common.config import QuantizationConfig, StorageConfig
from timm_sbs.predictor.base_model import norm_eps


def stored(kept, bits=8, eps=MappingProxyType({})):
    """As training sees them, which must be what is written and read."""
    config = QuantizationConfig(kept_bits=bits)
    found = stored_kept(kept, StorageConfig(quantization=config), eps)
    floats = {name: tensor for name, tensor in kept.items() if tensor.is_floating_point()}
    code_shapes = {name: kept_codes_shape(name, tensor) for name, tensor in floats.items()}
    data = encode_quantized(quantize_kept(floats, config, eps))
    for name, part in decode_quantized(data, floats, code_shapes).items():
        assert torch.equal(dequantize_kept(part, bits).to(found[name].dtype), found[name])
    return found


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OUTLIERS = {
    'one': torch.tensor([1e4]), 'many': torch.tensor([3e3, -4e3, 1e4, 5e5, -1e6]).repeat(6),
    'huge': torch.tensor([1e11, -1e9]), 'denormal': torch.full((10,), 1e-40), 'zeros': torch.zeros(50)}


@pytest.mark.parametrize('name', ['bn.weight', 'bn.running_mean', 'head.bias'])
@pytest.mark.parametrize('outliers', OUTLIERS)
@pytest.mark.parametrize('bits', [4, 12])
def test_outliers_cost_their_neighbours_nothing(name, outliers, bits):
    usual, others = random(20), OUTLIERS[outliers]
    found = stored({name: torch.cat([usual, others])}, bits)[name]
    part, steps = stored({name: usual}, bits)[name] - usual, 2 ** (1 - bits)
    assert (found[:20] - usual).abs().max() < max(4 * part.abs().max(), steps)
    assert ((found[20:] - others).abs() <= 1.5 * others.abs() / 2 ** min(bits, 10) + steps).all()


@pytest.mark.parametrize('tensor', [torch.zeros(5), torch.zeros(3, 4), torch.tensor(0.), torch.zeros(1)])
def test_zeros_stay_zeros(tensor):
    assert not stored({'weight': tensor})['weight'].any()


@pytest.mark.parametrize('tensor', [torch.tensor(0.3), torch.tensor([-7e8]), torch.full((9,), 1e-5)])
def test_one_number_and_many_equal_ones(tensor):
    torch.testing.assert_close(stored({'weight': tensor})['weight'], tensor, rtol=0.003, atol=0)


def test_an_outlier_costs_its_row_nothing_and_usual_rows_have_steps_to_their_largest():
    rows = random(4, 500)
    found = stored({'fc.weight': rows})['fc.weight']
    assert ((found - rows).abs().amax(1) <= 0.53 * rows.abs().amax(1) / 127).all()
    rows[1, 7] = 1e6
    changed = stored({'fc.weight': rows})['fc.weight']
    assert torch.equal(changed[[0, 2, 3]], found[[0, 2, 3]])
    assert (changed[1] - rows[1]).abs()[:7].max() < 0.03 and changed[1, 7] == pytest.approx(1e6, rel=0.004)


def test_variances_and_what_is_no_float():
    variances = torch.tensor([0., 1e-30, 1e-3, 7., 1e9, torch.finfo(torch.float32).max])
    index = torch.tensor([7, 8])
    found = stored({'bn.running_var': variances, 'index': index})
    assert 0 < found['bn.running_var'][:2].max() < 1e-11 and found['index'] is index
    assert ((found['bn.running_var'] / variances)[2:] - 1).abs().max() < 0.045


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_keep_their_type(dtype):
    assert stored({'bias': random(40).to(dtype)})['bias'].dtype == dtype


def test_gradients_pass_as_if_nothing_were_rounded():
    kept = {name: random(9, seed=i).requires_grad_() for i, name in enumerate(['bn.weight', 'bn.bias', 'fc.bias'])}
    kept.update({'bn.running_mean': random(9, seed=5), 'bn.running_var': random(9, seed=6).square()})
    found = stored_kept(kept, StorageConfig(quantization=QuantizationConfig(kept_bits=4)), {'bn.': 1e-5})
    sum((3 * tensor).sum() for tensor in found.values()).backward()
    assert all(torch.equal(tensor.grad, torch.full((9,), 3.)) for tensor in kept.values() if tensor.requires_grad)


@pytest.mark.parametrize('scale', [1., 1e-3, 1e4])
def test_weight_and_bias_make_up_for_coarse_statistics(scale):
    norm = nn.BatchNorm2d(64, eps=1e-3).eval()
    norm.load_state_dict({
        'weight': random(64), 'bias': random(64, seed=1), 'running_mean': scale * random(64, seed=2),
        'running_var': scale ** 2 * random(64, seed=3).square(), 'num_batches_tracked': torch.tensor(0)})
    x = norm.running_mean[:, None, None] + norm.running_var.sqrt()[:, None, None] * random(8, 64, 5, 5)
    rounded = copy.deepcopy(norm)
    rounded.load_state_dict(stored(norm.state_dict(), eps=norm_eps(norm)))
    assert (rounded.running_mean - norm.running_mean).abs().max() > 0.02 * scale
    assert (rounded(x) - norm(x)).norm() < 0.004 * norm(x).norm()


def test_statistics_that_nothing_follows_are_rounded_finely():
    norm = nn.BatchNorm2d(64, affine=False)
    state = {'running_mean': random(64), 'running_var': random(64).square() + 0.1}
    found = stored(state, eps=norm_eps(norm))
    assert (found['running_mean'] - state['running_mean']).abs().max() < 0.01


def test_a_transformer_has_layer_norms_and_positions():
    model = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=1, num_classes=3)
    kept = {name: tensor for name, tensor in model.state_dict().items() if tensor.dim() < 2 or 'embed' in name}
    kept['blocks.0.norm1.weight'] = random(192)
    kept['blocks.0.norm1.weight'][3] = 1e5
    found = stored(kept, eps=norm_eps(model))
    for name, tensor in kept.items():
        error, size = found[name] - tensor, tensor.abs().median()
        assert float(error.abs().median()) <= 0.02 * float(size), name


def test_numbers_of_old_steps_are_read_as_they_were():
    """Up to 2^bits - 1 an integer counts steps."""
    integers = quantize_kept({'weight': random(100)}, QuantizationConfig())['weight']
    values = integers.integers.clamp(-255, 255)
    kept = dequantize_kept(type(integers)(values, integers.codes), 8)
    assert torch.equal(kept, values.float() * 2 ** (integers.codes.double() / 16).float())


def test_a_dead_channel_does_not_matter(resnet20, images):
    with torch.no_grad():
        model = copy.deepcopy(resnet20)
        model.layer1[0].bn1.weight[0], model.layer1[0].bn1.running_mean[0] = 0, 1e4
        model.linear.bias[3] += 100
        rounded = copy.deepcopy(model)
        state = {name: tensor for name, tensor in model.state_dict().items() if tensor.dim() < 2}
        rounded.load_state_dict(stored(state, eps=norm_eps(model)), strict=False)
        first = images[0][:64]
        assert (rounded(first) - model(first)).abs().max() < 0.2
