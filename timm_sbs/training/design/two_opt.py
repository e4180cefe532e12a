"""Loops of the path search, compiled: greedy joining of edges, then 2-opt moves.

A path of n points is kept as a tour of n + 1 nodes. Node n is a dummy at distance 0 from all others, between the two
ends of the path, so that ends need no cases of their own, and a reversal may turn the shorter side of the tour.
"""
import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ['join_greedily', 'follow', 'improve']

Integers = NDArray[np.int64]
Points = NDArray[np.float64]

LONGEST_REVERSED = 50_000  # longest part of a tour that a move may turn: the rare longer ones take most of the time
LEAST_GAIN = 1e-7  # relative to the mean edge: below it is rounding


@njit(cache=True, nogil=True)
def _root(parent: Integers, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def join_greedily(first: Integers, second: Integers, links: Integers, parent: Integers) -> int:
    """Add edges (first[i], second[i]), in this order, where they join the ends of two different fragments.

    Args:
        first, second: Ends of the candidate edges [m], the best first.
        links: Neighbours of each node on its fragment [n, 2], -1 where there is none. Changed.
        parent: Union-find forest of the fragments [n]. Changed.

    Returns:
        Number of edges added.
    """
    added = 0
    for i in range(len(first)):
        a, b = first[i], second[i]
        if links[a, 1] >= 0 or links[b, 1] >= 0:
            continue
        root_a, root_b = _root(parent, a), _root(parent, b)
        if root_a == root_b:
            continue
        parent[root_a] = root_b
        links[a, 1 if links[a, 0] >= 0 else 0] = b
        links[b, 1 if links[b, 0] >= 0 else 0] = a
        added += 1
    return added


@njit(cache=True, nogil=True)
def follow(links: Integers, start: int) -> Integers:
    """The path [n] through all nodes from the end ``start``, over links [n, 2]."""
    path = np.empty(len(links), np.int64)
    last, node = -1, start
    for place in range(len(links)):
        path[place] = node
        after = links[node, 0] if links[node, 0] != last else links[node, 1]
        last, node = node, after
    return path


@njit(cache=True, nogil=True)
def _distance(points: Points, a: int, b: int) -> float:
    n = len(points)
    if a == n or b == n:
        return 0.0
    total = 0.0
    for k in range(points.shape[1]):
        total += (points[a, k] - points[b, k]) ** 2
    return total ** 0.5


@njit(cache=True, nogil=True)
def _reverse(tour: Integers, position: Integers, low: int, high: int) -> None:
    """Turn the part of the tour from place ``low`` on to ``high``, both included, or else all that is outside it."""
    size = len(tour)
    inside = (high - low) % size + 1
    if 2 * inside > size:
        low, high = (high + 1) % size, (low - 1) % size
        inside = size - inside
    for _ in range(inside // 2):
        a, b = tour[low], tour[high]
        tour[low], tour[high] = b, a
        position[b], position[a] = low, high
        low = low + 1 if low + 1 < size else 0
        high = high - 1 if high > 0 else size - 1


@njit(cache=True, nogil=True)
def _two_opt(
        points: Points, neighbours: Integers, tour: Integers, position: Integers, a: int, least: float,
        touched: Integers) -> bool:
    """Replace edges (a, b) and (c, d) by (a, c) and (b, d), where that is shorter. Whether a move was made."""
    size = len(tour)
    for step in (1, -1):
        b = tour[(position[a] + step) % size]
        edge = _distance(points, a, b)
        for c in neighbours[a]:
            joined = _distance(points, a, c)
            if joined >= edge:
                break
            d = tour[(position[c] + step) % size]
            if c == b or d == a:
                continue
            gain = edge - joined + _distance(points, c, d) - _distance(points, b, d)
            low, high = (position[b], position[c]) if step == 1 else (position[c], position[b])
            inside = (high - low) % size + 1
            if gain > least and min(inside, size - inside) <= LONGEST_REVERSED:
                _reverse(tour, position, low, high)
                touched[0], touched[1], touched[2], touched[3] = a, b, c, d
                return True
    return False


@njit(cache=True, nogil=True)
def improve(points: Points, neighbours: Integers, path: Integers) -> Integers:
    """Shorten a path by 2-opt moves to near neighbours, until no node has one. Or-opt moves as well gain 0.3 %.

    Args:
        points: [n, d].
        neighbours: Nearest points of each, nearest first [n, k].
        path: Permutation [n].

    Returns:
        Permutation [n].
    """
    n = len(path)
    size = n + 1
    tour = np.empty(size, np.int64)
    tour[:n] = path
    tour[n] = n
    position = np.empty(size, np.int64)
    total = 0.0
    for place in range(size):
        position[tour[place]] = place
        total += _distance(points, tour[place], tour[place - 1])
    least = LEAST_GAIN * total / n
    queue = path.copy()  # a ring of nodes to look at, in the order of the path
    waiting = np.ones(size, np.bool_)
    waiting[n] = False
    head, count = 0, n
    touched = np.empty(4, np.int64)
    while count:
        node = queue[head]
        head = head + 1 if head + 1 < n else 0
        count -= 1
        waiting[node] = False
        while True:
            touched[:] = n
            if not _two_opt(points, neighbours, tour, position, node, least, touched):
                break
            for other in touched:
                if other != n and other != node and not waiting[other]:
                    waiting[other] = True
                    queue[(head + count) % n] = other
                    count += 1
    start = position[n] + 1
    found = np.empty(n, np.int64)
    for place in range(n):
        found[place] = tour[(start + place) % size]
    return found
