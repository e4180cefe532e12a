"""Kernel orderings: which kernel stands at which place of its layer, at four granularities."""
from typing import List, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from timm_sbs.config import FOLDS, OrderingConfig
from timm_sbs.errors import OrderingError
from timm_sbs.packing import are_permutations
from timm_sbs.targets import TargetSpec

__all__ = [
    'Permutations', 'permutation_shapes', 'check_permutations', 'kernel_at_place', 'fold_of', 'output_sizes', 'places',
    'stack_kernel_indices',
]

# The permutations of one layer. Each array [rows, n] holds, row by row, a permutation of 0 .. n-1.
Permutations = Tuple[NDArray[np.int64], ...]


def permutation_shapes(spec: TargetSpec, config: OrderingConfig) -> List[Tuple[int, int]]:
    """Shapes [rows, n] of the permutations that order the kernels of a layer.

    layer: one over all kernels. filter: one for each filter. axis: one over filters, one over channels. none: nothing.
    """
    return {
        'layer': [(1, spec.num_kernels)],
        'filter': [(spec.num_filters, spec.num_channels)],
        'axis': [(1, spec.num_filters), (1, spec.num_channels)],
        'none': [],
    }[config.granularity]


def check_permutations(permutations: Permutations, spec: TargetSpec, config: OrderingConfig) -> None:
    """Raises OrderingError unless the arrays have the right shapes and every row is a permutation."""
    shapes = permutation_shapes(spec, config)
    if [p.shape for p in permutations] != shapes:
        raise OrderingError(
            f"The ordering of '{spec.name}' has shapes {[p.shape for p in permutations]}, but granularity "
            f"'{config.granularity}' needs {shapes}.")
    for rows in permutations:
        if not are_permutations(rows):
            raise OrderingError(f"The ordering of '{spec.name}' is not a permutation: a kernel is missing or doubled.")


def kernel_at_place(permutations: Permutations, spec: TargetSpec, config: OrderingConfig) -> NDArray[np.int64]:
    """Index of the kernel (row-major over filter and channel) that stands at each place of a layer: [num_kernels].

    Places run along the path (granularity 'layer'), or row by row over the (filter, channel) grid.
    """
    if config.granularity == 'layer':
        return permutations[0][0]
    if config.granularity == 'filter':
        return (permutations[0] + np.arange(spec.num_filters)[:, None] * spec.num_channels).reshape(-1)
    if config.granularity == 'axis':
        filters, channels = permutations[0][0], permutations[1][0]
        return (filters[:, None] * spec.num_channels + channels[None, :]).reshape(-1)
    return np.arange(spec.num_kernels)


def fold_of(spec: TargetSpec, config: OrderingConfig) -> int:
    """Kernels that are generated at each place of a layer: the fewest of FOLDS with which it has ``max_places``.

    A path, or the rows of a grid, are then cut into that many parts of equal length, which lie side by side: place t
    generates the t-th kernel of each. The predictor has so many times fewer places to visit.
    """
    if not config.max_places:
        return 1
    folds = [fold for fold in FOLDS if config.coordinates == 'path' or fold <= spec.num_filters]
    return next((fold for fold in folds if fold * config.max_places >= spec.num_kernels), folds[-1])


def output_sizes(specs: Sequence[TargetSpec], config: OrderingConfig) -> List[int]:
    """Values that a predictor generates for one place of each layer: those of all kernels that lie there."""
    return [spec.token_size * fold_of(spec, config) for spec in specs]


def places(spec: TargetSpec, config: OrderingConfig) -> Tuple[NDArray[np.int64], Tuple[int, ...]]:
    """Integer coordinates of every place inside its layer, and the number of places along each.

    Shapes: path of N places -> [N, 1], sizes (N,); grid of R rows -> [R * channels, 2], sizes (R, channels). Without
    folding, N is the number of kernels and R that of filters.
    """
    fold = fold_of(spec, config)
    if config.coordinates == 'path':
        length = -(-spec.num_kernels // fold)
        return np.arange(length)[:, None], (length,)
    rows = -(-spec.num_filters // fold)
    index = np.arange(rows * spec.num_channels)
    return np.stack([index // spec.num_channels, index % spec.num_channels], axis=1), (rows, spec.num_channels)


def stack_kernel_indices(
        permutations: Sequence[Permutations],
        specs: Sequence[TargetSpec],
        config: OrderingConfig,
) -> NDArray[np.int64]:
    """Where every kernel is among what is generated for several layers laid end to end: [sum of kernels].

    The inverse of the layers' orderings. ``generated[result]`` puts generated tokens, which come place by place
    (several at each, where a layer is folded), back into kernel order.
    """
    start = 0
    parts = []
    for layer, spec in zip(permutations, specs):
        fold = fold_of(spec, config)
        length = len(places(spec, config)[0])
        place = np.arange(spec.num_kernels)
        place_of_kernel = np.empty(spec.num_kernels, dtype=np.int64)
        place_of_kernel[kernel_at_place(layer, spec, config)] = place % length * fold + place // length
        parts.append(place_of_kernel + start)
        start += length * fold
    return np.concatenate(parts)
