"""Integers to bytes and back: asymmetric numeral systems (the constriction library) with static tables of integers.

Tables are counts that are stored with the symbols, so nothing that is decoded depends on floating-point results of
another machine.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from timm_sbs.common.errors import ArtifactError

__all__ = [
    'encode_uniform', 'decode_uniform', 'encode_integers', 'decode_integers', 'to_bytes', 'from_bytes', 'DAMAGED',
]

MAX_COUNT = 255
_HEADER = np.dtype([('low', '<i2'), ('last', '<u2'), ('has_table', 'u1')])  # of one array; a table of counts follows
DAMAGED = 'The coded integers are damaged: they do not decode to the numbers that they should hold.'


def to_bytes(coder: constriction.stream.stack.AnsCoder) -> NDArray[np.uint8]:
    """What a coder holds: [n], whole words of four bytes."""
    return coder.get_compressed().astype('<u4').view(np.uint8)


def from_bytes(data: NDArray[np.uint8]) -> constriction.stream.stack.AnsCoder:
    """Inverse of :func:`to_bytes`.

    Raises:
        ArtifactError: The bytes are no whole words, or the last word is 0.
    """
    if len(data) % 4:
        raise ArtifactError(f'{DAMAGED} Their {len(data)} bytes are no whole number of words.')
    try:
        return constriction.stream.stack.AnsCoder(np.frombuffer(data.tobytes(), dtype='<u4').astype(np.uint32))
    except ValueError:
        raise ArtifactError(DAMAGED) from None


def encode_uniform(symbols: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Code integers that are equally likely: [N] with 0 <= symbols < sizes, sizes from 2 to 1024.

    Takes the sum of log2(sizes) bits, up to 64 more, and less than 0.01 % of rounding.
    """
    coder = constriction.stream.stack.AnsCoder()
    if len(symbols):
        model = constriction.stream.model.Uniform()
        coder.encode_reverse(symbols.astype(np.int32), model, sizes.astype(np.int32))
    return to_bytes(coder)


def decode_uniform(data: NDArray[np.uint8], sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Inverse of :func:`encode_uniform`.

    Raises:
        ArtifactError: The bytes are not the code of so many integers.
    """
    coder = from_bytes(data)
    symbols = np.zeros(0, dtype=np.int32)
    if len(sizes):
        symbols = coder.decode(constriction.stream.model.Uniform(), sizes.astype(np.int32))
    if not coder.is_empty():
        raise ArtifactError(DAMAGED)
    return symbols.astype(np.int64)


@dataclass(frozen=True)
class _Alphabet:
    """Which integers an array holds: ``size`` of them from ``low`` on, and how often, or None for equally often."""
    low: int
    size: int
    counts: NDArray[np.uint8] | None

    @property
    def model(self) -> constriction.stream.model.Model:
        if self.counts is None:
            return constriction.stream.model.Uniform(self.size)
        return constriction.stream.model.Categorical(self.counts.astype(np.float32), perfect=False)

    def to_bytes(self) -> bytes:
        header = np.array([(self.low, self.size - 1, self.counts is not None)], dtype=_HEADER).tobytes()
        return header if self.counts is None else header + self.counts.tobytes()


def _alphabet_of(values: NDArray[np.int64]) -> _Alphabet:
    """The cheaper of a table of counts and none."""
    low = int(values.min()) if len(values) else 0
    size = max(2, int(values.max(initial=low)) - low + 1)
    counts = np.bincount(values - low, minlength=size)
    present = counts > 0
    scaled = np.where(present, np.maximum(1, np.rint(counts * (MAX_COUNT / max(1, counts.max())))), 0)
    bits = -(counts[present] * np.log2(scaled[present] / scaled.sum())).sum() if len(values) else 0.
    with_table = bits + 8 * size < len(values) * np.log2(size)
    return _Alphabet(low, size, scaled.astype(np.uint8) if with_table else None)


def encode_integers(arrays: Sequence[NDArray[np.integer]]) -> NDArray[np.uint8]:
    """Code arrays [N_i] of integers from -32768 to 32767 as one run of bytes, each with a table of its own."""
    values = [np.asarray(array).reshape(-1).astype(np.int64) for array in arrays]
    alphabets = [_alphabet_of(array) for array in values]
    coder = constriction.stream.stack.AnsCoder()
    for array, alphabet in reversed(list(zip(values, alphabets))):  # what is coded last is decoded first
        if len(array):
            coder.encode_reverse((array - alphabet.low).astype(np.int32), alphabet.model)
    headers = b''.join(alphabet.to_bytes() for alphabet in alphabets)
    return np.concatenate([np.frombuffer(headers, dtype=np.uint8), to_bytes(coder)])


def decode_integers(data: NDArray[np.uint8], lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    """Inverse of :func:`encode_integers`, given how many integers each array holds.

    Raises:
        ArtifactError: The bytes are not the code of such arrays.
    """
    alphabets = []
    start = 0
    for _ in lengths:
        header = data[start:start + _HEADER.itemsize]
        if len(header) < _HEADER.itemsize:
            raise ArtifactError(DAMAGED)
        low, last, has_table = (int(v) for v in header.view(_HEADER)[0])
        start += _HEADER.itemsize
        counts = None
        if has_table > 1 or not last:
            raise ArtifactError(DAMAGED)
        if has_table:
            counts = data[start:start + last + 1]
            start += last + 1
            if len(counts) <= last or not counts.any():
                raise ArtifactError(DAMAGED)
        alphabets.append(_Alphabet(low, last + 1, counts))
    coder = from_bytes(data[start:])
    arrays = [
        coder.decode(alphabet.model, length).astype(np.int64) + alphabet.low if length else np.zeros(0, dtype=np.int64)
        for alphabet, length in zip(alphabets, lengths)]
    if not coder.is_empty():
        raise ArtifactError(DAMAGED)
    return arrays
