"""Kernel orderings: short paths through the kernels of each layer, by greedy edges first, then 2-opt moves.

The time grows little faster than the number of distinct kernels: candidates are the near neighbours of each kernel,
from a k-d tree that may err by a factor of two in the distance. Kernels that are equal or nearly so are one point of
the search: the nearest neighbours of a point that occurs often are its equals, and all of them the same few.
"""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn

from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.progress import Progress
from timm_sbs.predictor.ordering import Permutations
from timm_sbs.predictor.tokens import WeightSpec, to_kernels
from timm_sbs.training.design.two_opt import follow, improve, join_greedily

__all__ = ['find_orderings', 'find_permutations', 'short_path']

NEIGHBOURS = 10  # candidates of a move
INEXACTNESS = 1.0  # a neighbour may be so much farther away, relatively, than the one that it is taken for
MOST_DIMENSIONS = 512  # of points: more are projected on their principal components
TREE_DIMENSIONS = 12  # of the k-d tree, which more would slow down; candidates are then sorted by their true distance
FRAGMENT_NEIGHBOURS = 8  # ends of fragments that an end may be joined to
CLOSE = 1e-3  # of the standard deviation of a coordinate: side of a cell whose points are one point of the search


def find_orderings(
        original: nn.Module, specs: Sequence[WeightSpec], ordering: OrderingConfig) -> tuple[Permutations, ...]:
    """Kernel orderings of all generated weights, from the original weights. Layers are worked on at the same time, on
    all cores, the largest first."""
    largest_first = sorted(specs, key=lambda spec: -spec.num_kernels)
    kernels, found = sum(spec.num_kernels for spec in specs), {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, Progress(kernels, 'ordering', 'kernel') as progress:
        each = pool.map(
            lambda spec: find_permutations(original.get_parameter(spec.name), spec, ordering), largest_first)
        for spec, permutations in zip(largest_first, each):
            found[spec.name] = permutations
            progress.update(spec.num_kernels)
    return tuple(found[spec.name] for spec in specs)


def find_permutations(weight: Tensor, spec: WeightSpec, config: OrderingConfig) -> Permutations:
    """Order the kernels of one layer so that successive ones are close.

    ``config`` says what a path runs over: all kernels (UOS), those of each filter (NeRN's 'in-filter'), filters and
    input channels as wholes ('axes'), or nothing. Shapes: :func:`timm_sbs.predictor.ordering.permutation_shapes`.
    """
    grid = to_kernels(weight.detach(), spec).double().cpu().numpy().reshape(spec.num_filters, spec.num_channels, -1)
    filters, channels = grid.reshape(len(grid), -1), grid.transpose(1, 0, 2).reshape(spec.num_channels, -1)
    paths_over = {
        'layer': [grid.reshape(1, spec.num_kernels, -1)], 'filter': [grid],
        'axes': [filters[None], channels[None]], 'nothing': []}[config.order_over]
    return tuple(np.stack([short_path(points) for points in rows]) for rows in paths_over)


def short_path(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """A short open path through all points: [n, d] -> permutation [n]. Deterministic."""
    points = np.asarray(points, dtype=np.float64)
    cells = np.rint(points / (CLOSE * points.std(axis=0).mean() or 1.)) + 0.  # makes -0 a 0
    rows = np.ascontiguousarray(cells).view(f'V{cells.itemsize * cells.shape[1]}').reshape(-1)
    _, firsts, group = np.unique(rows, return_index=True, return_inverse=True)
    rank = np.empty(len(firsts), dtype=np.int64)
    rank[_search(points[firsts])] = np.arange(len(firsts))
    return np.argsort(rank[group], kind='stable')


def _search(points: NDArray[np.float64]) -> NDArray[np.int64]:
    if len(points) < 3:
        return np.arange(len(points))
    points = _principal_components(points, MOST_DIMENSIONS)
    neighbours = _neighbours(points, min(NEIGHBOURS, len(points) - 1))
    return improve(points, neighbours, _greedy_path(points, neighbours))


def _principal_components(points: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Points [n, d] in the coordinates in which they vary most: [n, min(n, d, most)]; as they are where d is small."""
    n, d = points.shape
    if d <= most:
        return np.ascontiguousarray(points)
    centred = points - points.mean(0)
    if d <= n:
        return centred @ np.linalg.eigh(centred.T @ centred)[1][:, :-most - 1:-1]
    squares, vectors = np.linalg.eigh(centred @ centred.T)  # of inner products, which say all about distances
    return np.ascontiguousarray((vectors * np.sqrt(np.maximum(squares, 0)))[:, :-most - 1:-1])


def _neighbours(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Near points of each point, nearest first: [n, count]."""
    n, d = points.shape
    reduced = _principal_components(points, TREE_DIMENSIONS)
    wanted = min(n, (count if d <= TREE_DIMENSIONS else 2 * count) + 1)
    tree = cKDTree(reduced)
    leaf_order = tree.indices  # successive queries visit the same nodes, which halves the time
    found = np.empty((n, wanted), dtype=np.int64)
    found[leaf_order] = tree.query(reduced[leaf_order], k=wanted, eps=INEXACTNESS)[1]
    own = found == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True  # with a tie, such as a doubled kernel, a point need not be among its neighbours
    found = found[~own].reshape(n, wanted - 1)
    if d > TREE_DIMENSIONS:
        order = np.argsort(_squared_distances(points, np.arange(n), found), axis=1, kind='stable')
        found = np.take_along_axis(found, order[:, :count], axis=1)
    return np.ascontiguousarray(found)


def _squared_distances(
        points: NDArray[np.float64],
        nodes: NDArray[np.int64],
        candidates: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Squared distances of ``nodes`` [m] to their candidates [m, k]: [m, k], a column at a time to save memory."""
    return np.stack([((points[column] - points[nodes]) ** 2).sum(axis=1) for column in candidates.T], axis=1)


def _greedy_path(points: NDArray[np.float64], neighbours: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join points to fragments, and these to one path, by ever the shortest edge: first to neighbours, then between
    the ends that are left."""
    n = len(points)
    links, parent = np.full((n, 2), -1, dtype=np.int64), np.arange(n)
    missing = n - 1 - _join(points, np.arange(n), neighbours, links, parent)
    count = FRAGMENT_NEIGHBOURS
    while missing:
        ends = np.flatnonzero(links[:, 1] < 0)
        count = min(count, len(ends) - 1)
        added = _join(points, ends, ends[_neighbours(points[ends], count)], links, parent)
        missing -= added
        if added < missing // 2:  # the ends' neighbours are mostly those of their own fragments
            count *= 2
    return follow(links, int(np.flatnonzero(links[:, 1] < 0)[0]))


def _join(
        points: NDArray[np.float64],
        nodes: NDArray[np.int64],
        candidates: NDArray[np.int64],
        links: NDArray[np.int64],
        parent: NDArray[np.int64],
) -> int:
    """Join each of ``nodes`` [m] to one of its ``candidates`` [m, k], shortest edges first. Number of edges added."""
    first, second = np.repeat(nodes, candidates.shape[1]), candidates.reshape(-1)
    order = np.argsort(_squared_distances(points, nodes, candidates).reshape(-1), kind='stable')
    return join_greedily(first[order], second[order], links, parent)
