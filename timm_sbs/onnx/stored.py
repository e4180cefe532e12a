"""What an artifact stores, as ONNX nodes: integers times step sizes, and floats."""
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from timm_sbs.codec.kept import integers_per_e, step_limit
from timm_sbs.codec.quantization import STEPS_PER_OCTAVE, QuantizedTensor, step_sizes
from timm_sbs.onnx.graph import Graph
from timm_sbs.onnx.integers import IntegerPool

__all__ = ['Stored', 'exponential', 'spread']


class Stored:
    """Tensors that an artifact stores: integers are added to a pool, and tensors made of what it decodes.

    Args:
        integers: By 'predictor.', 'rounded.' or 'kept.' and a name.
        floats: Likewise, what is stored as it is.
        bits: ``kept_bits``, from which follows where integers of stored tensors go on in logarithms.
    """

    def __init__(
            self, integers: Mapping[str, QuantizedTensor], floats: Mapping[str, Tensor], bits: int, pool: IntegerPool,
    ) -> None:
        self._integers, self._floats, self._bits = integers, floats, bits
        self._keys = {name: pool.add(part.integers.numpy()) for name, part in integers.items()}
        self._rows = [name for name, part in integers.items() if part.codes.dim() and part.codes.numel()]
        codes = torch.cat([torch.zeros(0, dtype=torch.int32), *(integers[name].codes.flatten() for name in self._rows)])
        self._middle = int(codes.min() + codes.max()) // 2 if len(codes) else 0
        self._codes = pool.add((codes - self._middle).numpy())

    def begin(self, graph: Graph, decoded: Sequence[str]) -> None:
        """Make values from now on in this graph, of what the pool has decoded."""
        self._graph, self._decoded, self._steps = graph, decoded, dict[str, str]()
        if self._rows:
            every = exponential(graph, graph.cast(decoded[self._codes], np.float32), self._middle)
            sizes = [self._integers[name].codes.numel() for name in self._rows]
            self._steps = dict(zip(self._rows, graph.pieces(every, sizes)))

    def value(self, name: str, factor: str | None = None) -> str:
        """A tensor in its own shape, float32 if it is one of floats, times a factor. Where a tensor has one step size
        for all, the factor has it in it."""
        graph = self._graph
        if name in self._floats:
            value = _float_value(graph, self._floats[name])
            return graph.add('Mul', value, factor) if factor else value
        part = self._integers[name]
        value = graph.reshape(self._decoded[self._keys[name]], part.integers.shape)
        if part.integers.dim() > 1 and math.prod(part.integers.shape[2:]) == 1:
            value = graph.cast(value, np.int32)  # of int8, OpenVINO would keep these, and round what comes into a layer
        value = graph.cast(value, np.float32)
        if part.codes.shape == (0,):  # variances, of which the integers are codes
            return exponential(graph, value)
        if name.startswith('kept.'):
            value = spread(graph, value, part.integers, self._bits)
        if name in self._steps:
            value = graph.add('Mul', value, graph.reshape(self._steps[name], part.codes.shape))
        elif factor is None:
            factor = graph.constant(step_sizes(part.codes))
        return graph.add('Mul', value, factor) if factor else value


def spread(graph: Graph, value: str, integers: Tensor, bits: int) -> str:
    """Stored tensors in units of their step sizes: their integers up to a limit, exponentials beyond it."""
    limit = step_limit(bits)
    if not integers.numel() or int(integers.abs().max()) <= limit:
        return value
    size = graph.add('Abs', value)
    beyond = graph.add('Relu', graph.add('Sub', size, graph.constant(limit, np.float32)))
    growth = graph.add('Exp', graph.add('Mul', beyond, graph.constant(1 / integers_per_e(bits), np.float32)))
    near = graph.add('Min', size, graph.constant(limit, np.float32))
    return graph.add('Mul', graph.add('Mul', near, growth), graph.add('Sign', value))


def exponential(graph: Graph, codes: str, offset: int = 0) -> str:
    """Step sizes of codes, as floats, from which ``offset`` was taken away."""
    steps = graph.add('Exp', graph.add('Mul', codes, graph.constant(math.log(2) / STEPS_PER_OCTAVE, np.float32)))
    return graph.add('Mul', steps, graph.constant(2 ** (offset / STEPS_PER_OCTAVE), np.float32)) if offset else steps


def _float_value(graph: Graph, tensor: Tensor) -> str:
    if tensor.dtype in (torch.bfloat16, torch.float64):  # which builds of ONNX Runtime for browsers do not read
        tensor = tensor.float()
    value = graph.constant(tensor.numpy())
    return graph.cast(value, np.float32) if tensor.dtype == torch.float16 else value
