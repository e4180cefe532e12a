"""BatchNorms as factors and shifts: what PyTorch computes with them."""
import numpy as np
import pytest
import torch
from onnx_graphs import values_of
from torch.nn import functional as F

from timm_sbs.codec.kept import dequantize_kept, quantize_kept
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.onnx.graph import Graph
from timm_sbs.onnx.integers import IntegerPool
from timm_sbs.onnx.network import Norm
from timm_sbs.onnx.norms import Norms

SIZES = {'a.': 8, 'b.': 3, 'c.': 300, 'd.': 8, 'e.': 5}
EPS = {'a.': 1e-5, 'b.': 1e-3, 'c.': 1e-5, 'd.': 0., 'e.': 1e-5}
NORMS = [Norm('a.', EPS['a.'], 'conv.weight'), Norm('b.', EPS['b.']), Norm('c.', EPS['c.'], 'line.weight', 'line.bias'),
         Norm('d.', EPS['d.'], 'cube.weight'), Norm('e.', EPS['e.'])]
RANKS = {'conv.weight': 4, 'line.weight': 3, 'cube.weight': 5}
PRESCALES = {'conv.weight': .25, 'cube.weight': 3.}
BIAS = np.linspace(-1, 1, 300).astype(np.float32)


def statistics():
    torch.manual_seed(0)
    found = {}
    for prefix, size in SIZES.items():
        found |= {f'{prefix}weight': torch.randn(size), f'{prefix}bias': torch.randn(size),
                  f'{prefix}running_mean': torch.randn(size) * 3, f'{prefix}running_var': torch.rand(size) + .01}
    return found


def computed(norms, stored, bits):
    """Factors by name of a weight, and what nodes read by their name."""
    pool, graph = IntegerPool(), Graph()
    made = Norms(norms, stored, PRESCALES, bits, pool)
    factors, read = made.values(graph, pool.decode(graph), lambda name: graph.constant(BIAS), RANKS)
    return (dict(zip(names, values_of(graph, [*names.values()]))) for names in (factors, read))


def check(norms, stored, exact, bits):
    factors, read = computed(norms, stored, bits)
    assert set(factors) == {norm.weight for norm in norms if norm.weight}
    for norm in norms:
        own = {part: exact[f'{norm.prefix}{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias')}
        size = SIZES[norm.prefix]
        x = torch.randn(7, size)
        offset = torch.from_numpy(BIAS) if norm.bias else 0.
        expected = F.batch_norm(x + offset, *own.values(), eps=norm.eps)
        shift = torch.from_numpy(read[f'{norm.prefix}shift'])
        if norm.weight:
            factor = factors[norm.weight]
            assert factor.shape == (size, *[1] * (RANKS[norm.weight] - 1))
            scale = torch.from_numpy(factor.reshape(-1)) / PRESCALES.get(norm.weight, 1.)
            found = x * scale + shift
        else:
            zeros, ones, scale = (torch.from_numpy(read[f'{norm.prefix}{part}']) for part in ('zeros', 'ones', 'scale'))
            found = F.batch_norm(x, zeros, ones, scale, shift, eps=0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('norms', [NORMS, NORMS[:1], NORMS[1:2], NORMS[2:3], NORMS[::-1]])
def test_of_floats(norms):
    exact = statistics()
    check(norms, exact, exact, 0)


@pytest.mark.parametrize('bits', [4, 8, 12])
@pytest.mark.parametrize('norms', [NORMS, NORMS[:1], NORMS[1:2], NORMS[2:3], NORMS[::-1]])
def test_of_integers(norms, bits):
    integers = quantize_kept(statistics(), QuantizationConfig((), bits), EPS)
    check(norms, integers, {name: dequantize_kept(part, bits) for name, part in integers.items()}, bits)


def test_without_norms_there_is_nothing():
    pool, graph = IntegerPool(), Graph()
    assert Norms((), {}, {}, 8, pool).values(graph, pool.decode(graph), None, {}) == ({}, {}) and not graph.nodes
