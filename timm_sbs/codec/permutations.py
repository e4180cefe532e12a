"""Permutations to bytes, within 2 % of the log2(n!) bits that any code needs, by array operations alone.

A permutation of n values is split like a wavelet matrix: the values are halved again and again, and a bitmap says at
each level in which half the values lie, until blocks of at most 64 consecutive values are left. Halves are equally
large, up to one value, so their bits are equally likely and are stored as they are. The order inside a block is stored
exactly, by how many smaller values follow each value (its Lehmer code), and all such counts by one entropy coder.
"""
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from timm_sbs.codec.entropy import decode_uniform, encode_uniform
from timm_sbs.common.errors import ArtifactError, OrderingError
from timm_sbs.predictor.ordering import are_permutations

__all__ = ['coded_bits', 'most_coded_bytes', 'usual_coded_bytes', 'encode_permutations', 'decode_permutations']

BLOCK = 64
CHUNK = 4096  # blocks whose values are compared at once: 16 MiB
FLUSH = 9  # bytes by which the outputs of both exceed the information in them, at the most
USUAL_FLUSH = 4  # and mostly

Shape = tuple[int, int]


def _levels(n: int) -> int:
    """How often n values are halved."""
    levels = 0
    while -(-n >> levels) > BLOCK:
        levels += 1
    return levels


def _group(values: NDArray[np.int64], level: int, n: int) -> NDArray[np.int64]:
    """Which of the 2^level parts of 0 .. n-1 each value lies in. Part g begins at floor(n * g / 2^level)."""
    return (((values + 1) << level) - 1) // n


def _starts(level: int, n: int) -> NDArray[np.int64]:
    """First value of each part, and n."""
    return (np.arange((1 << level) + 1, dtype=np.int64) * n) >> level


def _block_places(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Places [blocks, widest] of the values of each block, their number [blocks], and the number of choices at each."""
    starts = _starts(_levels(n), n)
    sizes = np.diff(starts)
    columns = np.arange(sizes.max())
    return starts[:-1, None] + columns, sizes, np.maximum(sizes[:, None] - columns, 1)


def _alphabets(shape: Shape) -> NDArray[np.int32]:
    """Number of equally likely values of each Lehmer count of coded permutations [rows, n], in the code's order."""
    rows, n = shape
    choices = _block_places(n)[2]
    return np.tile(choices[choices > 1], rows).astype(np.int32)


def _num_bits(shapes: Sequence[Shape]) -> int:
    """Bits of all bitmaps."""
    return sum(rows * n * _levels(n) for rows, n in shapes)


def coded_bits(shapes: Sequence[Shape]) -> float:
    """Information in permutations of shapes [rows, n]: what :func:`encode_permutations` takes, to within 72 bits."""
    bits = float(_num_bits(shapes))
    for (rows, n), times in {shape: list(shapes).count(shape) for shape in set(shapes)}.items():
        bits += times * float(np.log2(_alphabets((1, n)).astype(np.float64)).sum()) * rows
    return bits


def most_coded_bytes(shapes: Sequence[Shape]) -> int:
    """Bytes that coded permutations of shapes [rows, n] cannot exceed."""
    bits = coded_bits(shapes)
    return int(bits * 1.0001 / 8) + FLUSH if bits else 0


def usual_coded_bytes(shapes: Sequence[Shape]) -> int:
    """Bytes that coded permutations of shapes [rows, n] take, to within five: all orders take equally many."""
    bits = coded_bits(shapes)
    return math.ceil(bits / 8) + USUAL_FLUSH if bits else 0


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


def _lehmer(orders: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many smaller values follow each value: [blocks, m]."""
    later = np.triu(np.ones((orders.shape[1],) * 2, dtype=bool), 1)
    counts = np.empty_like(orders)
    for chunk in _chunks(len(orders)):
        part = orders[chunk].astype(np.int8)
        counts[chunk] = ((part[:, :, None] > part[:, None, :]) & later).sum(axis=2)
    return counts


def _orders(lehmer: NDArray[np.int64]) -> NDArray[np.int64]:
    """Inverse of :func:`_lehmer`."""
    orders = lehmer.copy()
    for place in reversed(range(orders.shape[1] - 1)):
        later = orders[:, place + 1:]
        later += later >= orders[:, place, None]
    return orders


def _symbols(permutations: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bitmaps, one bit in each byte, and Lehmer counts of permutations [rows, n]."""
    rows, n = permutations.shape
    values, bitmaps = permutations, [np.zeros((rows, 0), dtype=np.uint8)]
    for level in range(1, _levels(n) + 1):
        part = _group(values, level, n)
        bitmaps.append((part & 1).astype(np.uint8))
        values = np.take_along_axis(values, np.argsort(part, axis=1, kind='stable'), axis=1)
    places, sizes, choices = _block_places(n)
    widest = places.shape[1]
    inside = np.take(values, np.minimum(places, n - 1), axis=1) - places[:, :1]
    inside[:, sizes < widest, -1] = widest - 1  # fills a smaller block up, and costs nothing
    counts = _lehmer(inside.reshape(-1, widest)).reshape(rows, *places.shape)
    return np.concatenate(bitmaps, axis=1).reshape(-1), counts[:, choices > 1].reshape(-1)


def _permutations(bitmaps: NDArray[np.uint8], symbols: NDArray[np.int64], shape: Shape) -> NDArray[np.int64]:
    """Inverse of :func:`_symbols`. Bitmaps that are none of a permutation give something that is none."""
    rows, n = shape
    levels = _levels(n)
    bitmaps = bitmaps.reshape(rows, levels, n)
    places, sizes, choices = _block_places(n)
    counts = np.zeros((rows, *places.shape), dtype=np.int64)
    counts[:, choices > 1] = symbols.reshape(rows, -1)
    inside = _orders(counts.reshape(-1, places.shape[1])).reshape(counts.shape) + places[:, :1]
    values = inside[:, np.arange(places.shape[1]) < sizes[:, None]]
    # Values stand sorted by their half. Each level, lowest first, undoes one sort: within each part, zeros had come
    # first and ones after them, both in the order that is looked for.
    place = np.arange(n)
    for level in reversed(range(levels)):
        starts, halves = _starts(level, n), _starts(level + 1, n)
        part = np.repeat(np.arange(1 << level), np.diff(starts))
        bitmap = bitmaps[:, level].astype(np.int64)
        ones = np.cumsum(bitmap, axis=1) - bitmap  # before each place
        ones -= ones[:, starts[:-1]][:, part]
        sorted_place = np.where(bitmap, halves[1::2][part] + ones, place - ones)
        values = np.take_along_axis(values, np.clip(sorted_place, 0, n - 1), axis=1)
    return values


def encode_permutations(permutations: Sequence[NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Code arrays whose rows are permutations of 0 .. n-1: each [rows, n], all together -> bytes.

    Raises:
        OrderingError: A row is not a permutation.
    """
    if not all(are_permutations(rows) for rows in permutations):
        raise OrderingError('Cannot code an ordering that is not a permutation: a value is missing or doubled.')
    parts = [_symbols(rows) for rows in permutations]
    if not parts:
        return np.zeros(0, dtype=np.uint8)
    bitmaps, symbols = (np.concatenate(part) for part in zip(*parts))
    counts = encode_uniform(symbols, np.concatenate([_alphabets(rows.shape) for rows in permutations]))
    return np.concatenate([np.packbits(bitmaps), counts])


def decode_permutations(coded: NDArray[np.uint8], shapes: Sequence[Shape]) -> list[NDArray[np.int64]]:
    """Inverse of :func:`encode_permutations`, given the arrays' shapes [rows, n].

    Raises:
        OrderingError: The bytes do not hold permutations of these shapes.
    """
    most = most_coded_bytes(shapes)
    if len(coded) > most:
        raise OrderingError(f'The coded orderings take at most {most} bytes, but {len(coded)} were found.')
    alphabets = [_alphabets(shape) for shape in shapes]
    num_bits = _num_bits(shapes)
    num_bytes = -(-num_bits // 8)
    try:
        symbols = decode_uniform(coded[num_bytes:], np.concatenate([np.zeros(0, np.int32), *alphabets]))
    except ArtifactError as e:
        raise OrderingError(f'The coded ordering is damaged: {e}') from None
    if len(coded) < num_bytes:
        raise OrderingError('The coded ordering is damaged: it is too short.')
    bitmaps = np.unpackbits(coded[:num_bytes], count=num_bits)
    ends = np.cumsum([len(part) for part in alphabets])[:-1]
    bit_ends = np.cumsum([_num_bits([shape]) for shape in shapes])[:-1]
    found = [
        _permutations(*parts) for parts in zip(np.split(bitmaps, bit_ends), np.split(symbols, ends), shapes)]
    if not all(are_permutations(rows) for rows in found):
        raise OrderingError('The coded ordering is damaged: what it holds is not a permutation.')
    return found
