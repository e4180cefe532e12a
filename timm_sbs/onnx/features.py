"""Features of all positions of a network, as ONNX nodes: positions by Range, so that none is stored.

Layers with equally many positions share theirs; what each adds is its own coordinate.
"""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timm_sbs.onnx.graph import Graph
from timm_sbs.predictor.encoding import layer_axes
from timm_sbs.predictor.generator import Generator

__all__ = ['Rows', 'features', 'row_blocks']

TURN_BITS = 40  # a turn has 2^40 parts
BLOCK_BYTES = 1 << 28  # of the largest value of a block; runtimes do not compute larger values than 1 GB beforehand
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Positions of some layers of a group that have the same axes.

    Attributes:
        layers: Indices of the layers.
        sizes: Positions along each axis; the first starts at ``start``.
        scales: Coordinates from one position to the next, along each axis.
    """
    layers: tuple[int, ...]
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    start: int = 0

    @property
    def count(self) -> int:
        return len(self.layers) * math.prod(self.sizes)


def row_blocks(generator: Generator) -> tuple[list[list[list[Rows]]], dict[str, int]]:
    """All positions of each group of a generator, in blocks whose values have at most ``BLOCK_BYTES``; and of each
    layer, by its name, the first row among those of its group."""
    config = generator.config
    widest = max(8 * config.feature_width, *(4 * width for width in config.predictor.hidden_widths))
    most = max(1, BLOCK_BYTES // widest)
    axes = dict(zip(generator.names, layer_axes(generator.specs, config.ordering, config.encoding)))
    indices = {name: index for index, name in enumerate(generator.names)}
    groups, first_rows = [], dict[str, int]()
    for group in generator.groups:
        kinds: dict[tuple[tuple[int, ...], tuple[float, ...]], list[str]] = {}
        for spec in group.specs:
            kinds.setdefault(axes[spec.name][1:], []).append(spec.name)
        blocks: list[list[Rows]] = [[]]
        row, left = 0, most
        for (sizes, scales), names in kinds.items():
            for name in names:
                first_rows[name] = row
                row += math.prod(sizes)
            for rows in _cut(Rows(tuple(indices[name] for name in names), sizes, scales), most):
                if rows.count > left:
                    blocks.append([])
                    left = most
                blocks[-1].append(rows)
                left -= rows.count
        groups.append([block for block in blocks if block])
    return groups, first_rows


def _cut(rows: Rows, most: int) -> Iterator[Rows]:
    """The same rows in parts of at most so many, or of one position of the first axis."""
    if rows.count <= most:
        yield rows
        return
    step = max(1, most // math.prod(rows.sizes[1:]))
    for layer in rows.layers:
        for start in range(0, rows.sizes[0], step):
            stop = min(start + step, rows.sizes[0])
            yield Rows((layer,), (stop - start, *rows.sizes[1:]), rows.scales, start)


def features(graph: Graph, block: Sequence[Rows], generator: Generator) -> str:
    """Features [rows, F] of a block, float32: as :func:`timm_sbs.predictor.encoding.encode`."""
    turns = _turns(generator)
    angles = graph.joined([_angles(graph, rows, turns) for rows in block])
    return graph.joined([graph.add('Sin', angles), graph.add('Cos', angles)], axis=1)


def _turns(generator: Generator) -> Floats:
    """Turns of each feature for one of each coordinate: [D, K]."""
    encoding, coordinates = generator.config.encoding, generator.config.num_coordinates
    if encoding.kind == 'positional':
        levels = np.array([0.5 * encoding.base ** level for level in range(encoding.levels)])
        return np.kron(np.eye(coordinates), levels[None])
    turns = generator.frequencies.double().numpy().T.copy()
    turns[0] *= encoding.layer_bandwidth / len(generator.specs)
    return turns


def _angles(graph: Graph, rows: Rows, turns: Floats) -> str:
    """Angles [rows, K] in float32: the sum of those of each coordinate.

    A turn is an integer there, so that products of large places are exact: not all runtimes have float64.
    """
    rank, bits = 2 + len(rows.sizes), min(TURN_BITS, 61 - (rows.start + max(rows.sizes)).bit_length())

    def angles(places: str, turns: Floats) -> str:
        step = graph.constant(np.round((turns - np.floor(turns)) * 2. ** bits).reshape(1, -1), np.int64)
        part = graph.add('Mod', graph.add('Mul', places, step), graph.constant(1 << bits, np.int64))
        return graph.add('Mul', graph.cast(part, np.float32), graph.constant(2 * math.pi / 2 ** bits, np.float32))

    layers = graph.constant(np.reshape(rows.layers, (-1,) + (1,) * (rank - 1)), np.int64)
    total = angles(layers, turns[0])
    for axis, (size, scale) in enumerate(zip(rows.sizes, rows.scales), 1):
        start = rows.start if axis == 1 else 0
        places = graph.add('Range', *(graph.constant(number, np.int64) for number in (start, start + size, 1)))
        places = graph.reshape(places, [-1] + [1] * (rank - 1 - axis))
        total = graph.add('Add', total, angles(places, turns[axis] * scale))
    return graph.reshape(total, [rows.count, -1])
