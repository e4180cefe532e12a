"""Kernel orderings: which kernel is at which position of its layer."""
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from timm_sbs.common.config import FOLDS, OrderingConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.predictor.tokens import WeightSpec

__all__ = [
    'Permutations', 'permutation_shapes', 'check_permutations', 'kernel_at_position', 'fold_of', 'output_sizes',
    'axis_sizes', 'stack_kernel_indices',
]

# The permutations of one layer. Each array [rows, n] holds, row by row, a permutation of 0 .. n-1.
Permutations = tuple[NDArray[np.int64], ...]


def permutation_shapes(spec: WeightSpec, config: OrderingConfig) -> list[tuple[int, int]]:
    """Shapes [rows, n] of the permutations that order the kernels of a layer.

    layer: one over all kernels. filter: one for each filter. axes: one over filters, one over channels. nothing: none.
    """
    return {
        'layer': [(1, spec.num_kernels)],
        'filter': [(spec.num_filters, spec.num_channels)],
        'axes': [(1, spec.num_filters), (1, spec.num_channels)],
        'nothing': [],
    }[config.order_over]


def check_permutations(permutations: Permutations, spec: WeightSpec, config: OrderingConfig) -> None:
    """Raises ArtifactError unless the arrays have the right shapes and every row is a permutation."""
    shapes = permutation_shapes(spec, config)
    if [p.shape for p in permutations] != shapes:
        raise ArtifactError(
            f"The ordering of '{spec.name}' has shapes {[p.shape for p in permutations]}, but order_over "
            f"'{config.order_over}' needs {shapes}.")
    if any((np.sort(rows, axis=1) != np.arange(rows.shape[1])).any() for rows in permutations):
        raise ArtifactError(f"The ordering of '{spec.name}' is not a permutation: a kernel is missing or doubled.")


def kernel_at_position(permutations: Permutations, spec: WeightSpec, config: OrderingConfig) -> NDArray[np.int64]:
    """Index of the kernel (row-major over filter and channel) at each position of a layer: [num_kernels].

    Positions run along the path (order_over 'layer'), or row by row over the (filter, channel) grid.
    """
    if config.order_over == 'layer':
        return permutations[0][0]
    if config.order_over == 'filter':
        return (permutations[0] + np.arange(spec.num_filters)[:, None] * spec.num_channels).reshape(-1)
    if config.order_over == 'axes':
        filters, channels = permutations[0][0], permutations[1][0]
        return (filters[:, None] * spec.num_channels + channels[None, :]).reshape(-1)
    return np.arange(spec.num_kernels)


def fold_of(spec: WeightSpec, config: OrderingConfig) -> int:
    """Kernels that are generated at each position of a layer: the fewest of FOLDS with which it has ``max_positions``.

    The path, or the rows of a grid, are then cut into that many parts of equal length, side by side: position t
    generates the t-th kernel of each. The predictor is evaluated at that many times fewer positions.
    """
    if not config.max_positions:
        return 1
    folds = [fold for fold in FOLDS if config.coordinates == 'path' or fold <= spec.num_filters]
    return next((fold for fold in folds if fold * config.max_positions >= spec.num_kernels), folds[-1])


def output_sizes(specs: Sequence[WeightSpec], config: OrderingConfig) -> list[int]:
    """Values that a predictor generates at one position of each layer: those of all kernels there."""
    return [spec.token_size * fold_of(spec, config) for spec in specs]


def axis_sizes(spec: WeightSpec, config: OrderingConfig) -> tuple[int, ...]:
    """Positions of a layer along each axis inside it: (N,) on a path, (R, channels) in a grid. Without folding, N is
    the number of kernels and R that of filters."""
    fold = fold_of(spec, config)
    if config.coordinates == 'path':
        return (-(-spec.num_kernels // fold),)
    return (-(-spec.num_filters // fold), spec.num_channels)


def stack_kernel_indices(
        permutations: Sequence[Permutations],
        specs: Sequence[WeightSpec],
        config: OrderingConfig,
) -> NDArray[np.int64]:
    """Index of every kernel among the tokens that are generated for several layers, one after the other:
    [sum of kernels].

    The inverse of the layers' orderings: ``generated[result]`` puts generated tokens, which come position by position
    (several at each, where a layer is folded), back into kernel order.
    """
    start = 0
    parts = []
    for layer, spec in zip(permutations, specs):
        fold = fold_of(spec, config)
        length = math.prod(axis_sizes(spec, config))
        position = np.arange(spec.num_kernels)
        position_of_kernel = np.empty(spec.num_kernels, dtype=np.int64)
        position_of_kernel[kernel_at_position(layer, spec, config)] = position % length * fold + position // length
        parts.append(position_of_kernel + start)
        start += length * fold
    return np.concatenate(parts)
