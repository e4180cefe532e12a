"""Generated weights as ONNX nodes: features of positions, the predictor, and the kernels put in their places."""
import math
from collections.abc import Mapping, Sequence

import numpy as np

from timm_sbs.onnx.features import features, row_blocks
from timm_sbs.onnx.graph import Graph
from timm_sbs.onnx.integers import IntegerPool
from timm_sbs.predictor.generator import Generator, TokenGroup
from timm_sbs.predictor.ordering import stack_kernel_indices
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['Ordering', 'generated_weights']


class Ordering:
    """The rows of a layer's kernels among those that the predictor generates for the layer, in few bytes.

    Rows [F, C] of filters and channels are ``start_f + step * place_fc``: places are those of a path, or only inside a
    filter where each has its own. Places of more than a byte are a byte and small integers.
    """

    def __init__(self, generator: Generator, layer: int, pool: IntegerPool) -> None:
        spec, permutations = generator.specs[layer], generator.permutations[layer]
        rows = stack_kernel_indices([permutations], [spec], generator.config.ordering)
        rows = rows.reshape(spec.num_filters, spec.num_channels)
        self.starts = rows.min(axis=1, keepdims=True)
        relative = rows - self.starts
        self.step = int(np.gcd.reduce(relative, axis=None)) or 1
        places = relative // self.step
        if (rows == rows[:1] + self.starts - self.starts[0]).all():  # the same in every filter
            places = places[:1]
        elif places.max() * 2 >= rows.max():  # of one path through all filters
            self.starts, self.step, places = np.zeros((1, 1), np.int64), 1, rows
        self.places = places.shape
        self.parts = list[int]()
        while places.max() > 255:
            self.parts.append(pool.add((places & 255) - 128))
            places = places >> 8
        self.middle = int(places.max() + 1) // 2
        self.parts.append(pool.add(places - self.middle))

    def rows(self, graph: Graph, decoded: Sequence[str], first: int) -> str:
        """Indices [F, C] int32 of kernels among rows, the first of which is ``first``."""
        value, offset = '', 0
        for index, part in enumerate(self.parts):
            scale = self.step << 8 * index
            term = graph.cast(decoded[part], np.int32)
            term = term if scale == 1 else graph.add('Mul', term, graph.constant(scale, np.int32))
            value = graph.add('Add', value, term) if value else term
            offset += scale * (128 if index + 1 < len(self.parts) else self.middle)
        value = graph.reshape(value, self.places)
        starts = self.starts + first + offset
        return graph.add('Add', value, graph.constant(starts, np.int32)) if starts.any() else value


def generated_weights(
        graph: Graph,
        generator: Generator,
        parameters: Mapping[str, str],
        orderings: Mapping[str, Ordering],
        decoded: Sequence[str],
) -> dict[str, str]:
    """Values of all generated weights, before their scales, by name.

    Args:
        parameters: Values of the predictor's weights and biases, by name.
        orderings: Of each weight.
        decoded: Of the pool that the orderings are in.
    """
    groups, first_rows = row_blocks(generator)
    weights = {}
    for group, blocks in zip(generator.groups, groups):
        head = f'heads.{group.output_size}'
        outputs = graph.joined([graph.add(
            'Gemm', _hidden(graph, features(graph, block, generator), generator, parameters),
            parameters[f'{head}.weight'], parameters[f'{head}.bias'], transB=1) for block in blocks])
        for spec in group.specs:
            rows = orderings[spec.name].rows(graph, decoded, first_rows[spec.name] * group.fold)
            weights[spec.name] = _weight(graph, outputs, group, spec, rows)
    return {name: weights[name] for name in generator.names}


def _hidden(graph: Graph, value: str, generator: Generator, parameters: Mapping[str, str]) -> str:
    """Of the predictor's last hidden layer: [rows, F] -> [rows, H]."""
    operator = {'gelu': 'Gelu', 'relu': 'Relu', 'sine': 'Sin'}[generator.config.predictor.activation]
    for index in range(len(generator.predictor.trunk)):
        layer = f'trunk.{index}'
        value = graph.add('Gemm', value, parameters[f'{layer}.weight'], parameters[f'{layer}.bias'], transB=1)
        value = graph.add(operator, value)
    return value


def _weight(graph: Graph, outputs: str, group: TokenGroup, spec: WeightSpec, rows: str) -> str:
    """A weight from what the predictor generates for its group [rows, G * T], in its own shape."""
    kernel, values = spec.shape[2:], math.prod(spec.shape[1:])
    if math.prod(kernel) == spec.token_size and spec.num_channels == spec.shape[1]:  # tokens are kernels
        return graph.add('Gather', graph.reshape(outputs, [-1, *kernel]), rows, axis=0)
    tokens = graph.add('Gather', graph.reshape(outputs, [-1, group.token_size]), rows, axis=0)
    width = spec.num_channels * spec.token_size
    if width != values:
        line = graph.reshape(tokens, [spec.num_filters, width])
        tokens = graph.pieces(line, [values, width - values], axis=1)[0]
    return graph.reshape(tokens, spec.shape)
