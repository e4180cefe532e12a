"""All BatchNorms of a network in one expression: y = scale * x + shift, the scale as a factor of a convolution."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timm_sbs.codec.quantization import QuantizedTensor, step_sizes
from timm_sbs.onnx.graph import Graph
from timm_sbs.onnx.integers import IntegerPool
from timm_sbs.onnx.network import STATISTICS, Norm
from timm_sbs.onnx.stored import exponential, spread

__all__ = ['Norms']


class Norms:
    """Factors of convolution weights, and what a network's nodes read of its BatchNorms.

    Integers of all BatchNorms are decoded together. A channel knows the number of its own, by which it finds the step
    sizes.

    Args:
        norms: Of the network.
        stored: Integers or floats of the stored tensors, by name.
        prescales: By which convolution weights are to be multiplied whatever their BatchNorm, by name.
        bits: ``kept_bits`` of the integers; 0 of floats.
    """

    def __init__(
            self,
            norms: Sequence[Norm],
            stored: Mapping[str, QuantizedTensor | Tensor],
            prescales: Mapping[str, float],
            bits: int,
            pool: IntegerPool,
    ) -> None:
        self._norms, self._bits, self._quantized = norms, bits, bool(bits)
        if not norms:
            return
        self._prescales = np.array([prescales.get(norm.weight or '', 1.) for norm in norms])
        self._eps = np.array([norm.eps for norm in norms])
        parts: list[list[Any]] = [[stored[f'{norm.prefix}{part}'] for norm in norms] for part in STATISTICS]
        if self._quantized:
            self._sizes = [part.integers.numel() for part in parts[0]]
            self._integers = torch.stack([torch.cat([part.integers for part in row]) for row in parts])
            self._steps = np.array([[float(step_sizes(part.codes)) for part in row] for row in parts[:3]])
            self._key = pool.add(self._integers.numpy())
            self._owner = pool.add(np.repeat(np.arange(len(norms)), self._sizes))
        else:
            self._sizes = [part.numel() for part in parts[0]]
            self._floats = [torch.cat(row).double().numpy() for row in parts]

    def values(
            self, graph: Graph, decoded: Sequence[str], bias: Callable[[str], str], ranks: Mapping[str, int],
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Factors of weights by their names, and what the network's nodes read by its name there.

        Args:
            decoded: Of the pool.
            bias: Gives the value of a convolution's bias, by its name.
            ranks: Dimensions of each convolution weight.
        """
        if not self._norms:
            return {}, {}
        scales, factors, shifts = self._decoded(graph, decoded) if self._quantized else self._constants(graph)
        factor_of, read = {}, {}
        scaled = graph.pieces(graph.reshape(factors, [-1, 1, 1, 1]), self._sizes)
        pieces = zip(self._norms, self._sizes, scaled, graph.pieces(graph.reshape(shifts, [-1]), self._sizes))
        for index, (norm, size, factor, shift) in enumerate(pieces):
            if norm.weight is not None:
                rank = ranks[norm.weight]
                factor_of[norm.weight] = factor if rank == 4 else graph.reshape(factor, [size] + [1] * (rank - 1))
            else:
                read[f'{norm.prefix}scale'] = graph.reshape(factor, [size])
                for part, number in (('zeros', 0.), ('ones', 1.)):
                    read[f'{norm.prefix}{part}'] = graph.add(
                        'Expand', graph.constant(number, np.float32), graph.constant([size], np.int64))
            if norm.bias is not None:
                own = graph.pieces(graph.reshape(scales, [-1]), self._sizes)[index]
                shift = graph.add('Add', shift, graph.add('Mul', bias(norm.bias), own))
            read[f'{norm.prefix}shift'] = shift
        return factor_of, read

    def _constants(self, graph: Graph) -> tuple[str, str, str]:
        weight, bias, mean, variance = self._floats
        scale = weight / np.sqrt(variance + np.repeat(self._eps, self._sizes))
        factor = scale * np.repeat(self._prescales, self._sizes)
        return (graph.constant(scale, np.float32), graph.constant(factor, np.float32),
                graph.constant(bias - mean * scale, np.float32))

    def _decoded(self, graph: Graph, decoded: Sequence[str]) -> tuple[str, str, str]:
        """Scales, factors and shifts [1, C] from integers."""
        owner = graph.cast(decoded[self._owner], np.int32)

        def of_channels(numbers: np.ndarray) -> str:
            """What each BatchNorm has [.., L], for each channel; one number where it is always the same."""
            if (numbers == numbers.flat[0]).all():
                return graph.constant(numbers.flat[0], np.float32)
            return graph.add('Gather', graph.constant(numbers, np.float32), owner, axis=numbers.ndim - 1)

        values = graph.cast(graph.reshape(decoded[self._key], self._integers.shape), np.float32)
        affine, codes = graph.pieces(values, [3, 1])
        affine = graph.add('Mul', spread(graph, affine, self._integers[:3], self._bits), of_channels(self._steps))
        weight, bias, mean = graph.pieces(affine, [1, 1, 1])
        deviation = graph.add('Sqrt', graph.add('Add', exponential(graph, codes), of_channels(self._eps)))
        scale = graph.add('Div', weight, deviation)
        factor = graph.add('Mul', scale, of_channels(self._prescales))
        return scale, factor, graph.add('Sub', bias, graph.add('Mul', mean, scale))
