"""Permutations to bytes, within 2 % of the log2(n!) bits that any code needs, by array operations alone.

A permutation of n values is split like a wavelet matrix: the values are halved again and again, and a bitmap says at
each level in which half the values lie, until blocks of at most 64 consecutive values are left. Halves are equally
large, up to one value, so their bits are equally likely. The order inside a block is stored exactly, by how many
smaller values follow each value (its Lehmer code). All bits and all such counts go through one entropy coder.
"""
from typing import Iterator, List, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from timm_sbs.entropy import decode_uniform, encode_uniform
from timm_sbs.errors import ArtifactError, OrderingError

__all__ = ['are_permutations', 'packed_bits', 'most_packed_bytes', 'pack', 'unpack']

BLOCK = 64
CHUNK = 4096  # blocks whose values are compared at once: 16 MiB
FLUSH = 8  # bytes by which a coder's output exceeds the information in it

Shape = Tuple[int, int]


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


def _block_places(n: int) -> Tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Places [blocks, widest] of the values of each block, their number [blocks], and the number of choices at each."""
    starts = _starts(_levels(n), n)
    sizes = np.diff(starts)
    columns = np.arange(sizes.max())
    return starts[:-1, None] + columns, sizes, np.maximum(sizes[:, None] - columns, 1)


def _alphabets(shape: Shape) -> NDArray[np.int32]:
    """Number of equally likely values of each symbol of packed permutations [rows, n], in the order of the code."""
    rows, n = shape
    choices = _block_places(n)[2]
    row = np.concatenate([np.full(n * _levels(n), 2), choices[choices > 1]])
    return np.tile(row, rows).astype(np.int32)


def packed_bits(shapes: Sequence[Shape]) -> float:
    """Information in packed permutations of shapes [rows, n]: what :func:`pack` takes, to within 64 bits."""
    bits = 0.
    for (rows, n), times in {shape: list(shapes).count(shape) for shape in set(shapes)}.items():
        bits += times * float(np.log2(_alphabets((1, n)).astype(np.float64)).sum()) * rows
    return bits


def most_packed_bytes(shapes: Sequence[Shape]) -> int:
    """Bytes that packed permutations of shapes [rows, n] cannot exceed."""
    bits = packed_bits(shapes)
    return int(bits * 1.0001 / 8) + FLUSH if bits else 0


def are_permutations(rows: NDArray[np.int64]) -> bool:
    """Whether every row [rows, n] holds each of 0 .. n-1 once."""
    return np.array_equal(np.sort(rows, axis=1), np.broadcast_to(np.arange(rows.shape[1]), rows.shape))


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


def _symbols(permutations: NDArray[np.int64]) -> NDArray[np.int64]:
    rows, n = permutations.shape
    values, symbols = permutations, []
    for level in range(1, _levels(n) + 1):
        part = _group(values, level, n)
        symbols.append(part & 1)
        values = np.take_along_axis(values, np.argsort(part, axis=1, kind='stable'), axis=1)
    places, sizes, choices = _block_places(n)
    widest = places.shape[1]
    inside = np.take(values, np.minimum(places, n - 1), axis=1) - places[:, :1]
    inside[:, sizes < widest, -1] = widest - 1  # fills a smaller block up, and costs nothing
    counts = _lehmer(inside.reshape(-1, widest)).reshape(rows, *places.shape)
    symbols.append(counts[:, choices > 1])
    return np.concatenate(symbols, axis=1).reshape(-1)


def _permutations(symbols: NDArray[np.int64], shape: Shape) -> NDArray[np.int64]:
    rows, n = shape
    symbols = symbols.reshape(rows, -1)
    levels = _levels(n)
    places, sizes, choices = _block_places(n)
    counts = np.zeros((rows, *places.shape), dtype=np.int64)
    counts[:, choices > 1] = symbols[:, levels * n:]
    inside = _orders(counts.reshape(-1, places.shape[1])).reshape(counts.shape) + places[:, :1]
    values = inside[:, np.arange(places.shape[1]) < sizes[:, None]]
    # Values stand sorted by their part. Each level, lowest first, undoes one sort.
    for level in reversed(range(levels)):
        bitmap = symbols[:, level * n:(level + 1) * n]
        part = np.repeat(np.arange(1 << level), np.diff(_starts(level, n)))  # known from the levels above
        order = np.argsort(part * 2 + bitmap, axis=1, kind='stable')
        restored = np.empty_like(values)
        np.put_along_axis(restored, order, values, axis=1)
        values = restored
    return values


def pack(permutations: Sequence[NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Pack arrays whose rows are permutations of 0 .. n-1: each [rows, n], all together -> bytes.

    Raises:
        OrderingError: A row is not a permutation.
    """
    if not all(are_permutations(rows) for rows in permutations):
        raise OrderingError('Cannot pack an ordering that is not a permutation: a value is missing or doubled.')
    parts = [_symbols(rows) for rows in permutations]
    if not parts:
        return np.zeros(0, dtype=np.uint8)
    return encode_uniform(np.concatenate(parts), np.concatenate([_alphabets(rows.shape) for rows in permutations]))


def unpack(packed: NDArray[np.uint8], shapes: Sequence[Shape]) -> List[NDArray[np.int64]]:
    """Inverse of :func:`pack`, given the arrays' shapes [rows, n].

    Raises:
        OrderingError: The bytes do not hold permutations of these shapes.
    """
    most = most_packed_bytes(shapes)
    if len(packed) > most:
        raise OrderingError(f'The packed orderings take at most {most} bytes, but {len(packed)} were found.')
    alphabets = [_alphabets(shape) for shape in shapes]
    try:
        symbols = decode_uniform(packed, np.concatenate([np.zeros(0, np.int32), *alphabets]))
    except ArtifactError as e:
        raise OrderingError(f'The packed ordering is damaged: {e}') from None
    ends = np.cumsum([len(part) for part in alphabets])[:-1]
    found = [_permutations(part, shape) for part, shape in zip(np.split(symbols, ends), shapes)]
    if not all(are_permutations(rows) for rows in found):
        raise OrderingError('The packed ordering is damaged: what it holds is not a permutation.')
    return found
