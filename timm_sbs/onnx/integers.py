"""Small integers in few bytes that an ONNX graph reads: a byte is the number of one of the most frequent tuples.

Decoding an entropy code takes a loop, which no runtime computes beforehand. A tuple of two to eight integers takes one
look into a table. Of tuples that are not among the 255 most frequent ones the byte says only that; the table goes on
with them, in the order in which they come. Brotli and gzip then find most of what an entropy coder would.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from timm_sbs.onnx.graph import Graph

__all__ = ['IntegerPool']

Integers = NDArray[np.int64]
LENGTHS = (1, 2, 3, 4, 6, 8)  # of tuples
LARGEST = 8  # integer of a tuple that may be frequent
FREQUENT = 255  # tuples of a table; one byte more is that of all others
NODE_BYTES = 250  # about what the nodes take that decode a pool


class IntegerPool:
    """Integers of many tensors, of which those with similar frequencies are decoded together.

    All tensors are added first.

    Example:
        >>> pool = IntegerPool()
        >>> number = pool.add(np.array([[0, 1, 0], [-1, 0, 100]]))
        >>> graph = Graph()
        >>> graph.reshape(pool.decode(graph)[number], [2, 3])
        'c'
    """

    def __init__(self) -> None:
        self._tensors: list[Integers] = []

    def add(self, integers: NDArray[np.integer]) -> int:
        """Add integers of any shape: their number among those that are decoded."""
        self._tensors.append(integers.reshape(-1).astype(np.int64))
        return len(self._tensors) - 1

    def decode(self, graph: Graph) -> list[str]:
        """The integers of each tensor as a vector of int8, or of int32 where some need more."""
        names = [''] * len(self._tensors)
        for book in _books(self._tensors):
            tensors = [self._tensors[index] for index in book.tensors]
            for index, name in zip(book.tensors, _decoded(graph, tensors, book.length, book.wide)):
                names[index] = name
        return names


@dataclass(frozen=True)
class _Counts:
    """How often which tuples come, by their keys; of those with large integers only ``others`` is known."""
    keys: Integers
    counts: Integers
    others: int

    def __add__(self, more: '_Counts') -> '_Counts':
        keys, which = np.unique(np.concatenate([self.keys, more.keys]), return_inverse=True)
        counts = np.bincount(which, np.concatenate([self.counts, more.counts]), len(keys)).astype(np.int64)
        return _Counts(keys, counts, self.others + more.others)

    def nbytes(self, tuple_bytes: int) -> int:
        """With a table of its own."""
        frequent = np.sort(self.counts)[::-1][:FREQUENT]
        total = int(self.counts.sum()) + self.others
        return total + (total - int(frequent.sum()) + len(frequent)) * tuple_bytes + NODE_BYTES


@dataclass(frozen=True)
class _Book:
    """Tensors that share a table. With ``length`` 0 they are stored as they are."""
    tensors: tuple[int, ...]
    wide: bool
    stored: int  # bytes of the integers as they are
    counts: dict[int, _Counts]

    @cached_property
    def _best(self) -> tuple[int, int]:
        size = 2 if self.wide else 1
        return min((self.stored, 0), *((found.nbytes(size * length), length) for length, found in self.counts.items()))

    @property
    def nbytes(self) -> int:
        return self._best[0]

    @property
    def length(self) -> int:
        return self._best[1]

    def __add__(self, more: '_Book') -> '_Book':
        counts = {length: found + more.counts[length] for length, found in self.counts.items()}
        return _Book(self.tensors + more.tensors, self.wide, self.stored + more.stored, counts)


def _books(tensors: Sequence[Integers]) -> list[_Book]:
    """All tensors, joined with those of the nearest entropy for as long as this saves bytes."""
    books = [_book(index, flat) for index, flat in enumerate(tensors)]
    books.sort(key=lambda book: (book.wide, book.nbytes / max(1, book.stored)))
    joined = [_join(*pair) for pair in pairwise(books)]
    while joined:
        gains = [one.nbytes + other.nbytes - both.nbytes if both else -1
                 for (one, other), both in zip(pairwise(books), joined)]
        best = int(np.argmax(gains))
        pair = joined[best]
        if pair is None or gains[best] <= 0:
            break
        books[best:best + 2] = [pair]
        del joined[best]
        for index in {best - 1, best} & set(range(len(joined))):
            joined[index] = _join(books[index], books[index + 1])
    return books


def _book(index: int, flat: Integers) -> _Book:
    wide = bool(flat.size and np.abs(flat).max() > 127)
    counts = {}
    for length in LENGTHS:
        keys, found = np.unique(_keys(flat, length), return_counts=True)
        counts[length] = _Counts(keys[keys >= 0], found[keys >= 0], int(found[keys < 0].sum()))
    return _Book((index,), wide, flat.size * (2 if wide else 1), counts)


def _join(one: _Book, other: _Book) -> _Book | None:
    return one + other if one.wide == other.wide and one.length and other.length else None


def _tuples(flat: Integers, length: int) -> Integers:
    return np.pad(flat, (0, -flat.size % length)).reshape(-1, length)


def _keys(flat: Integers, length: int) -> Integers:
    """A number for each tuple, the same for equal ones; -1 where an integer is large."""
    if length == 1:
        return flat + (1 << 15)
    rows = _tuples(flat, length)
    radix = 2 * LARGEST + 1
    keys = (np.clip(rows, -LARGEST, LARGEST) + LARGEST) @ radix ** np.arange(length)
    return np.where((np.abs(rows) > LARGEST).any(axis=1), -1, keys)


def _decoded(graph: Graph, tensors: Sequence[Integers], length: int, wide: bool) -> Sequence[str]:
    def stored(integers: Integers) -> str:
        return graph.integers(integers) if wide else graph.constant(integers, np.int8)

    if not length:
        return [stored(flat) for flat in tensors]
    flat = np.concatenate(tensors)
    keys, rows = _keys(flat, length), _tuples(flat, length)
    known, first, counts = np.unique(keys, return_index=True, return_counts=True)
    order = np.argsort(-np.where(known < 0, 0, counts), kind='stable')[:FREQUENT]
    order = order[known[order] >= 0]
    number, mark = np.full(len(known), len(order)), len(order)
    number[order] = np.arange(mark)
    numbers = number[np.searchsorted(known, keys)]
    marked = np.flatnonzero(numbers == mark)
    table = stored(np.concatenate([rows[first[order]], rows[marked]]))
    index = graph.cast(graph.constant(numbers, np.uint8), np.int32)
    if len(marked):
        # Runtimes do not compute NonZero or Compress beforehand, but TopK they do.
        def numbered(start: int, stop: int) -> str:
            return graph.add('Range', *(graph.constant(number, np.int32) for number in (start, stop, 1)))

        marked_at = graph.add(
            'Where', graph.add('Equal', index, graph.constant(mark, np.int32)), numbered(0, len(numbers)),
            graph.constant(len(numbers), np.int32))
        at, _ = graph.split('TopK', marked_at, graph.constant([len(marked)], np.int64), count=2, largest=0)
        after = numbered(mark, mark + len(marked))
        index = graph.add('ScatterElements', index, at, after, axis=0)
    value = graph.add('Gather', table, index, axis=0)
    sizes = [part.size for part in tensors] + ([missing] if (missing := -flat.size % length) else [])
    return graph.pieces(graph.reshape(value, [-1]), sizes)[:len(tensors)]
