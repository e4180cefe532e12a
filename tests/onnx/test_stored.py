"""Stored tensors: what a reader of the artifact makes of integers and floats."""
import numpy as np
import pytest
import torch
from onnx_graphs import values_by_reference, values_of

from timm_sbs.codec.kept import dequantize_kept, quantize_kept, step_limit
from timm_sbs.codec.quantization import LARGEST_CODE, SMALLEST_CODE, QuantizedTensor, dequantize, step_sizes
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.onnx.graph import Graph
from timm_sbs.onnx.integers import IntegerPool
from timm_sbs.onnx.stored import Stored, exponential, spread


def values_in(integers, floats, bits, factors=None, evaluate=values_of):
    """Each tensor by its name, times a factor where there is one."""
    pool, graph, factors = IntegerPool(), Graph(), factors or {}
    stored = Stored(integers, floats, bits, pool)
    stored.begin(graph, pool.decode(graph))
    names = [*integers, *floats]
    return dict(zip(names, evaluate(graph, [stored.value(name, factors[name](graph) if name in factors else None)
                                            for name in names])))


def random_integers(shape, largest, codes):
    return QuantizedTensor(torch.randint(-largest, largest + 1, shape, dtype=torch.int32),
                           torch.randint(-60, 40, codes, dtype=torch.int32))


@pytest.fixture()
def integers():
    torch.manual_seed(0)
    return {
        'predictor.trunk.0.weight': random_integers((20, 12), 100, (20, 1)),
        'predictor.heads.9.weight': random_integers((9, 20), 4095, (9, 1)),
        'predictor.trunk.0.bias': random_integers((20,), 127, ()),
        'rounded.conv.weight': random_integers((8, 4, 3, 3), 3, ()),
        'rounded.wide.weight': random_integers((8, 4, 1, 1), 32767, ()),
        'rounded.fc.weight': random_integers((10, 8), 2, ())}


@pytest.mark.parametrize('evaluate', [values_of, values_by_reference])
def test_integers_are_multiplied_by_their_steps(integers, evaluate):
    found = values_in(integers, {}, 8, evaluate=evaluate)
    for name, part in integers.items():
        assert found[name].dtype == np.float32 and found[name].shape == tuple(part.integers.shape)
        np.testing.assert_allclose(found[name], dequantize(part).numpy(), rtol=1e-5, atol=0, err_msg=name)


def test_a_factor_stands_for_the_one_step_of_a_tensor(integers):
    """It brings the step with it; rows have theirs as well."""
    def factor(graph):
        return graph.constant(.5, np.float32)

    found = values_in(integers, {}, 8, dict.fromkeys(integers, factor))
    for name, part in integers.items():
        expected = dequantize(part) if part.codes.dim() else part.integers.float()
        np.testing.assert_allclose(found[name], expected.numpy() / 2, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('bits', [4, 8, 12])
def test_stored_tensors_with_outliers_and_variances(bits):
    torch.manual_seed(0)
    vector = torch.randn(50)
    kept = {'bn.weight': vector, 'bn.bias': torch.cat([vector, torch.tensor([1e6, -1e9, 0.])]),
            'bn.running_mean': vector * 1e-3, 'bn.running_var': torch.cat([vector.exp(), torch.tensor([0., 1e30])]),
            'token': torch.randn(1, 6, 40) * torch.logspace(-3, 3, 40), 'table': torch.randn(30, 5) ** 5,
            'scalar': torch.tensor(2.5), 'none': torch.zeros(0)}
    integers = {f'kept.{name}': part for name, part in quantize_kept(kept, QuantizationConfig((), bits)).items()}
    assert max(int(part.integers.abs().max()) for part in integers.values() if part.integers.numel()) > step_limit(bits)
    found = values_in(integers, {}, bits)
    for name, part in integers.items():
        np.testing.assert_allclose(
            found[name], dequantize_kept(part, bits).numpy(), rtol=2e-5, atol=0, err_msg=name)


def test_floats_of_any_type_become_float32_and_others_stay():
    torch.manual_seed(0)
    values = torch.randn(3, 2)
    floats = {f'predictor.{kind}': values.to(kind) for kind in (torch.float32, torch.float16, torch.bfloat16)}
    others = {'kept.index': torch.arange(6).view(2, 3), 'kept.mask': values > 0}
    found = values_in({}, {**floats, **others, 'kept.scaled': values.half()}, 0,
                      {'kept.scaled': lambda graph: graph.constant(3., np.float32)})
    for name, tensor in floats.items():
        assert found[name].dtype == np.float32 and (found[name] == tensor.float().numpy()).all()
    for name, tensor in others.items():
        assert found[name].dtype == tensor.numpy().dtype and (found[name] == tensor.numpy()).all()
    assert (found['kept.scaled'] == 3 * values.half().float().numpy()).all()


def test_step_sizes_from_the_smallest_to_the_largest():
    codes = torch.arange(SMALLEST_CODE, LARGEST_CODE + 1)
    for offset in (0, 703):
        graph = Graph()
        start = graph.constant(codes.numpy() - offset, np.float32)
        found, = values_of(graph, [exponential(graph, start, offset)])
        np.testing.assert_allclose(found, step_sizes(codes).numpy(), rtol=2e-5)


@pytest.mark.parametrize('bits', [4, 8, 12])
def test_what_is_within_the_limit_needs_no_nodes(bits):
    graph, limit = Graph(), step_limit(bits)
    assert spread(graph, 'x', torch.tensor([limit, -limit]), bits) == 'x' == spread(graph, 'x', torch.zeros(0), bits)
    assert not graph.nodes and spread(graph, 'x', torch.tensor([limit + 1]), bits) != 'x'
