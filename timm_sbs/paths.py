"""Short paths through kernels: nearest neighbours first, then 2-opt and Or-opt moves. Needs the 'train' extra."""
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from timm_sbs.config import OrderingConfig
from timm_sbs.errors import MissingExtraError
from timm_sbs.ordering import Permutations
from timm_sbs.targets import ConvSpec, to_kernels

try:
    from numba import njit
    from scipy.spatial import cKDTree
except ImportError as e:
    raise MissingExtraError(
        "Ordering kernels needs numba and scipy. Install them with: pip install 'timm_sbs[train]'") from e

__all__ = ['find_permutations', 'short_path', 'path_length']

NEIGHBOURS = 12  # candidates of a move; more shortens the paths of real kernels by less than 0.1 %
MAX_PASSES = 50  # passes of improvement; the search ends sooner when a pass finds nothing
LONGEST_MOVED = 3  # longest segment that Or-opt moves


def find_permutations(weight: Tensor, spec: ConvSpec, config: OrderingConfig) -> Permutations:
    """Order the kernels of one layer so that successive ones are close.

    Args:
        weight: The layer's weight [out, in // groups, kh, kw].
        spec: Its spec.
        config: The granularity: one path over all kernels (UOS), one in each filter (NeRN's 'in-filter'), one over
            filters and one over input channels as wholes ('axis'), or none.

    Returns:
        The layer's permutations, as in :func:`timm_sbs.ordering.permutation_shapes`.
    """
    kernels = to_kernels(weight, spec).detach().double().cpu().numpy()
    grid = kernels.reshape(spec.num_filters, spec.num_channels, spec.token_size)
    if config.granularity == 'layer':
        return (short_path(kernels)[None],)
    if config.granularity == 'filter':
        return (np.stack([short_path(filter_kernels) for filter_kernels in grid]),)
    if config.granularity == 'axis':
        channels = grid.transpose(1, 0, 2).reshape(spec.num_channels, -1)
        return short_path(grid.reshape(spec.num_filters, -1))[None], short_path(channels)[None]
    return ()


def short_path(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """A short open path through all points: [n, d] -> permutation [n]. Deterministic."""
    points = np.ascontiguousarray(points, dtype=np.float64)
    if len(points) < 3:
        return np.arange(len(points))
    start = int(((points - points.mean(0)) ** 2).sum(1).argmax())
    path = _nearest_neighbour_path(points, start)
    # With a tie, such as a doubled kernel, a point need not be its own first neighbour: drop one column in any case.
    neighbours = cKDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points)), workers=-1)[1][:, 1:]
    return _improve(points, np.ascontiguousarray(neighbours, dtype=np.int64), path)


def path_length(points: NDArray[np.float64], path: NDArray[np.int64]) -> float:
    """Sum of the Euclidean distances between successive points of a path."""
    return float(np.linalg.norm(np.diff(points[path], axis=0), axis=1).sum())


@njit(cache=True)
def _distance(points, a, b):
    total = 0.0
    for k in range(points.shape[1]):
        total += (points[a, k] - points[b, k]) ** 2
    return total ** 0.5


@njit(cache=True)
def _nearest_neighbour_path(points, start):
    n, d = points.shape
    left = np.arange(n)
    remaining = points.copy()  # points[left], kept together so that the search reads memory in order
    path = np.empty(n, np.int64)
    path[0] = start
    left[start] = left[n - 1]
    remaining[start] = remaining[n - 1]
    for count in range(1, n):
        last = points[path[count - 1]]
        best, best_square = 0, np.inf
        for i in range(n - count):
            square = 0.0
            for k in range(d):
                square += (remaining[i, k] - last[k]) ** 2
            if square < best_square:
                best, best_square = i, square
        path[count] = left[best]
        left[best] = left[n - count - 1]
        remaining[best] = remaining[n - count - 1]
    return path


@njit(cache=True)
def _improve(points, neighbours, path):
    position = np.empty(len(path), np.int64)
    position[path] = np.arange(len(path))
    for _ in range(MAX_PASSES):
        moves = _two_opt_pass(points, neighbours, path, position)
        moves += _or_opt_pass(points, neighbours, path, position)
        if moves == 0:
            break
    return path


@njit(cache=True)
def _two_opt_pass(points, neighbours, path, position):
    """Replace edges (a, b) and (c, d) by (a, c) and (b, d), reversing what lies between, where that is shorter."""
    n, moves = len(path), 0
    for a in range(n):
        for step in (1, -1):
            i = position[a]
            if not 0 <= i + step < n:
                continue
            b = path[i + step]
            edge = _distance(points, a, b)
            for c in neighbours[a]:
                joined = _distance(points, a, c)
                if joined >= edge:
                    break
                j = position[c]
                gain = edge - joined
                if 0 <= j + step < n:
                    d = path[j + step]
                    gain += _distance(points, c, d) - _distance(points, b, d)
                if gain > 1e-9:
                    low, high = min(i, j), max(i, j)
                    if step == 1:
                        low += 1
                    else:
                        high -= 1
                    path[low:high + 1] = path[low:high + 1][::-1].copy()
                    for k in range(low, high + 1):
                        position[path[k]] = k
                    moves += 1
                    break
    return moves


@njit(cache=True)
def _or_opt_pass(points, neighbours, path, position):
    """Move segments of up to LONGEST_MOVED points next to a neighbour of their first point, where that is shorter."""
    n, moves = len(path), 0
    for first in range(n):
        for size in range(1, LONGEST_MOVED + 1):
            begin = position[first]
            end = begin + size - 1
            if end >= n:
                break
            removed = _removal_gain(points, path, begin, end)
            best, best_gain, best_step = -1, 1e-9, 0
            for c in neighbours[first]:
                joined = _distance(points, first, c)
                if joined >= removed:
                    break
                for step in (1, -1):  # the segment goes behind c, or, reversed, before it
                    j = position[c]
                    if begin <= j <= end or begin <= j + step <= end:
                        continue
                    gain = removed - joined
                    if 0 <= j + step < n:
                        d = path[j + step]
                        gain += _distance(points, c, d) - _distance(points, path[end], d)
                    if gain > best_gain:
                        best, best_gain, best_step = c, gain, step
            if best >= 0:
                _move(path, position, begin, end, position[best], best_step)
                moves += 1
    return moves


@njit(cache=True)
def _removal_gain(points, path, begin, end):
    """By how much a path shortens when the points from ``begin`` to ``end`` are taken out."""
    gain = 0.0
    if begin > 0:
        gain += _distance(points, path[begin - 1], path[begin])
    if end + 1 < len(path):
        gain += _distance(points, path[end], path[end + 1])
    if begin > 0 and end + 1 < len(path):
        gain -= _distance(points, path[begin - 1], path[end + 1])
    return gain


@njit(cache=True)
def _move(path, position, begin, end, target, step):
    """Put the points from ``begin`` to ``end`` behind (step 1) or, reversed, before (step -1) place ``target``."""
    segment = path[begin:end + 1].copy()
    if step == -1:
        segment = segment[::-1].copy()
    size = len(segment)
    if target > end:
        stop = target + 1 if step == 1 else target
        path[begin:stop - size] = path[end + 1:stop].copy()
        path[stop - size:stop] = segment
        changed = (begin, stop)
    else:
        start = target + 1 if step == 1 else target
        path[start + size:end + 1] = path[start:begin].copy()
        path[start:start + size] = segment
        changed = (start, end + 1)
    for k in range(changed[0], changed[1]):
        position[path[k]] = k
