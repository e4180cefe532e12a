"""Permutations to bytes, within 2 % of the log2(n!) bits that any code needs, by array operations alone.

The values 0 .. n-1 are cut into blocks of at most 64 consecutive ones, 2^b blocks of one size up to one value. Of each
position, b bits say which block its value lies in: blocks are equally likely, so these are stored as they are. The
order in each block is stored exactly, by how many smaller values follow each value (its Lehmer code), and all such
numbers by one entropy coder. Whatever the bits are, what they say is a permutation.
"""
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from timm_sbs.codec.streams import DAMAGED, StreamReader, StreamWriter
from timm_sbs.common.errors import ArtifactError

__all__ = ['most_coded_bytes', 'encode_permutations', 'decode_permutations']

BLOCK = 64
FLUSH = 9  # bytes by which the coder's output exceeds the information in it, at the most

Shape = tuple[int, int]


def _block_bits(n: int) -> int:
    """Bits that number the blocks of n values."""
    bits = 0
    while -(-n >> bits) > BLOCK:
        bits += 1
    return bits


def _blocks(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First value of each block, and n; indices [blocks, widest] of each block's values in their order; and how many
    values may be found at each of them."""
    starts = (np.arange((1 << _block_bits(n)) + 1, dtype=np.int64) * n) >> _block_bits(n)
    sizes = np.diff(starts)
    indices = np.arange(sizes.max())
    return starts, starts[:-1, None] + indices, np.maximum(sizes[:, None] - indices, 1)


@lru_cache(maxsize=32)
def _alphabets(n: int) -> NDArray[np.int32]:
    """Number of equally likely values of each number of a permutation's Lehmer codes."""
    choices = _blocks(n)[2]
    return choices[choices > 1].astype(np.int32)


def _all_alphabets(shapes: Sequence[Shape]) -> NDArray[np.int32]:
    return np.concatenate([np.zeros(0, np.int32), *(np.tile(_alphabets(n), rows) for rows, n in shapes)])


def most_coded_bytes(shapes: Sequence[Shape]) -> int:
    """Bytes that coded permutations of shapes [rows, n] cannot exceed. All take about as many, whatever they are."""
    bits = sum(rows * (n * _block_bits(n) + _bits_in_blocks(n)) for rows, n in shapes)
    return int(bits * 1.0001 / 8) + FLUSH


def _bits_in_blocks(n: int) -> float:
    """Information in the orders of all blocks, of which some have one value more than the others."""
    size, larger = divmod(n, 1 << _block_bits(n))
    total = (1 << _block_bits(n)) * math.lgamma(size + 1) + larger * math.log(size + 1)
    return total / math.log(2)


def _lehmer(orders: NDArray[np.int8]) -> NDArray[np.int8]:
    """How many smaller values follow each value, with one block in each column: [m, blocks]."""
    return np.stack([(orders[index + 1:] < orders[index]).sum(axis=0, dtype=np.int8) for index in range(len(orders))])


def _orders(lehmer: NDArray[np.int8]) -> NDArray[np.int8]:
    """Inverse of :func:`_lehmer`."""
    orders = lehmer.copy()
    for index in reversed(range(len(orders) - 1)):
        later = orders[index + 1:]
        later += later >= orders[index]
    return orders


def _symbols(permutations: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bits of block numbers, one in each byte, and Lehmer codes of permutations [rows, n]."""
    n = permutations.shape[1]
    bits, (starts, indices, choices) = _block_bits(n), _blocks(n)
    block = (((permutations + 1) << bits) - 1) // n
    planes = (block[:, None] >> np.arange(bits)[::-1, None]) & 1
    values = np.take_along_axis(permutations, np.argsort(block, axis=1, kind='stable'), axis=1)
    inside = np.take(values, np.minimum(indices, n - 1), axis=1) - starts[:-1, None]
    widest = indices.shape[1]
    inside[:, np.diff(starts) < widest, -1] = widest - 1  # fills a smaller block up, and costs nothing
    counts = _lehmer(inside.reshape(-1, widest).astype(np.int8).T).T.reshape(inside.shape)
    return planes.astype(np.uint8).reshape(-1), counts[:, choices > 1].reshape(-1)


def _permutations(planes: NDArray[np.uint8], symbols: NDArray[np.int32], shape: Shape) -> NDArray[np.int64]:
    """Inverse of :func:`_symbols`."""
    rows, n = shape
    bits, (starts, indices, choices) = _block_bits(n), _blocks(n)
    counts = np.zeros((rows, *indices.shape), np.int8)
    counts[:, choices > 1] = symbols.reshape(rows, -1)
    inside = _orders(counts.reshape(-1, indices.shape[1]).T.copy()).T.reshape(counts.shape)
    values = (inside + starts[:-1, None])[:, indices < starts[1:, None]]
    block = np.zeros((rows, n), np.min_scalar_type(1 << bits))  # small types are sorted faster
    for plane in planes.reshape(rows, bits, n).swapaxes(0, 1):
        block = block << 1 | plane
    found = np.empty((rows, n), np.int64)
    np.put_along_axis(found, np.argsort(block, axis=1, kind='stable'), values, axis=1)
    return found


def encode_permutations(permutations: Sequence[NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Code arrays whose rows are permutations of 0 .. n-1: each [rows, n], all together -> bytes.

    They are not checked: see :func:`~timm_sbs.predictor.ordering.check_permutations`.
    """
    parts = [(np.zeros(0, np.uint8), np.zeros(0, np.int64)), *map(_symbols, permutations)]
    planes, symbols = (np.concatenate(part) for part in zip(*parts))
    writer = StreamWriter()
    writer.code_uniform(_all_alphabets([rows.shape for rows in permutations]), symbols)
    return np.concatenate([np.packbits(planes), writer.to_bytes()])


def decode_permutations(coded: NDArray[np.uint8], shapes: Sequence[Shape]) -> list[NDArray[np.int64]]:
    """Inverse of :func:`encode_permutations`, given the arrays' shapes [rows, n].

    Raises:
        ArtifactError: The bytes do not hold permutations of these shapes.
    """
    bits = [rows * n * _block_bits(n) for rows, n in shapes]
    split, alphabets = -(-sum(bits) // 8), _all_alphabets(shapes)
    symbols = np.zeros(len(alphabets), np.int32)
    if len(coded) < split:
        raise ArtifactError(DAMAGED)
    reader = StreamReader(coded[split:])
    reader.code_uniform(alphabets, symbols)
    reader.check_end()
    planes = np.split(np.unpackbits(coded[:split], count=sum(bits)), np.cumsum(bits))
    sizes = [rows * len(_alphabets(n)) for rows, n in shapes]
    return [_permutations(*part) for part in zip(planes, np.split(symbols, np.cumsum(sizes)), shapes)]
