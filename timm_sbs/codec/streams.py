"""The entropy coder: asymmetric numeral systems (the constriction library), for a writer and a reader alike.

What says which symbols come next, and how likely they are, is given either of the two. It may depend on all symbols
before, and must be exact on every machine, so probabilities are integers.
"""
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from timm_sbs.common.errors import ArtifactError

__all__ = ['DAMAGED', 'Integers', 'Stream', 'StreamWriter', 'StreamReader']

Integers = NDArray[Any]  # of whatever integer type

DAMAGED = 'The coded integers are damaged: they do not decode to the numbers that they should hold.'
TOTAL = 1 << 22  # of the counts of a context, as the coder sees them
_MARK = 1  # of 0 and 1. Comes last, since a reader beyond the end would find zeros


class Stream:
    """What a writer and a reader have in common: symbols are taken out of arrays, or arrays are filled with them."""

    reading = False

    def code(self, counts: Integers, contexts: NDArray[np.uint8], symbols: Integers, increment: int) -> None:
        """Code symbols [n], given their contexts [n] and how often each symbol came in each context before.

        Args:
            counts: [contexts, symbols], 1 at least. They are raised afterwards by what was coded.
            contexts: Of the symbols, which are coded one context after the other.
            symbols: To be coded, or to be filled.
            increment: Of a count, for each symbol; 0 where nothing is left to be coded by the counts.
        """
        order = np.argsort(contexts, kind='stable')
        in_order = np.empty_like(symbols) if self.reading else symbols[order]
        numbers = np.bincount(contexts)
        present, start = np.flatnonzero(numbers), 0
        learned = counts[present]
        scaled = np.maximum(1, learned * TOTAL // learned.sum(axis=1, keepdims=True)).astype(np.float32)
        for model_counts, row, number in zip(scaled, learned, numbers[present].tolist()):
            part = in_order[start:start + number]
            start += number
            self._code(constriction.stream.model.Categorical(
                model_counts, perfect=False, lazy=bool(2 * model_counts[0] > TOTAL)), part)  # lazy: searched from 0 on
            if increment:
                row += increment * np.bincount(part, minlength=len(row))
        counts[present] = learned
        if self.reading:
            symbols[order] = in_order

    def code_uniform(self, sizes: Integers, symbols: Integers) -> None:
        """Code symbols [n] with 0 <= symbols < sizes, sizes from 2 to 2^16, all equally likely."""
        if len(symbols):
            self._code(constriction.stream.model.Uniform(), symbols, sizes.astype(np.int32))

    def _code(self, model: constriction.stream.model.Model, symbols: Integers, *parameters: NDArray[np.int32]) -> None:
        raise NotImplementedError


class StreamWriter(Stream):
    """Notes all symbols, since the coder must be given the last one first."""

    def __init__(self) -> None:
        self._noted: list[tuple[constriction.stream.model.Model, NDArray[np.int32], tuple[NDArray[np.int32], ...]]] = []

    def _code(self, model: constriction.stream.model.Model, symbols: Integers, *parameters: NDArray[np.int32]) -> None:
        self._noted.append((model, symbols.astype(np.int32), parameters))

    def to_bytes(self) -> NDArray[np.uint8]:
        """The code of all symbols: [n], whole words of four bytes."""
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(_MARK, constriction.stream.model.Uniform(2))
        for model, symbols, parameters in reversed(self._noted):
            coder.encode_reverse(symbols, model, *parameters)
        return coder.get_compressed().astype('<u4').view(np.uint8)


class StreamReader(Stream):
    """Reads what a writer wrote, and raises ArtifactError where bytes are not that."""
    reading = True

    def __init__(self, data: NDArray[np.uint8]) -> None:
        try:  # their number may be no multiple of four
            self._coder = constriction.stream.stack.AnsCoder(
                np.frombuffer(data.tobytes(), dtype='<u4').astype(np.uint32))
        except ValueError:
            raise ArtifactError(DAMAGED) from None

    def _code(self, model: constriction.stream.model.Model, symbols: Integers, *parameters: NDArray[np.int32]) -> None:
        symbols[:] = self._coder.decode(model, *(parameters or (len(symbols),)))

    def check_end(self) -> None:
        """Raises ArtifactError if bytes are left, or there were too few: what was read is not what was written."""
        if self._coder.decode(constriction.stream.model.Uniform(2)) != _MARK or not self._coder.is_empty():
            raise ArtifactError(DAMAGED)
