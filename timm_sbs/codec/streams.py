"""Symbols to bytes and back by one and the same code: what says which symbol comes next, with which counts, is given a
writer or a reader.

The counts may depend on all symbols before, as the reader knows them too. They must be exact on every machine.
"""
from typing import Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from timm_sbs.codec.entropy import DAMAGED, from_bytes, to_bytes
from timm_sbs.common.errors import ArtifactError

__all__ = ['Stream', 'StreamWriter', 'StreamReader']

Integers = NDArray[np.int64]

_MARK = 1  # of 0 and 1. Comes last: a reader beyond the end would find zeros without end


class Stream(Protocol):
    """Takes symbols out of arrays, or fills these arrays with the symbols."""

    def code(self, counts: Integers, contexts: Integers, symbols: Integers) -> None:
        """Symbols [n], with the counts [contexts, symbols], from 1 to 2^24 in sum, of their contexts [n]."""

    def code_uniform(self, sizes: Integers, symbols: Integers) -> None:
        """Symbols [n] with 0 <= symbols < sizes, sizes from 2 to 2^16, all equally likely."""


class StreamWriter:
    """Notes all symbols, as the coder must be given the last one first."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.float32] | None, NDArray[np.int32]]] = []

    def code(self, counts: Integers, contexts: Integers, symbols: Integers) -> None:
        self._parts.append((symbols.astype(np.int32), counts.astype(np.float32), contexts.astype(np.int32)))

    def code_uniform(self, sizes: Integers, symbols: Integers) -> None:
        self._parts.append((symbols.astype(np.int32), None, sizes.astype(np.int32)))

    def to_bytes(self) -> NDArray[np.uint8]:
        """The code of all symbols: [n]."""
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(_MARK, constriction.stream.model.Uniform(2))
        for symbols, counts, parameters in reversed(self._parts):
            if counts is None:
                coder.encode_reverse(symbols, constriction.stream.model.Uniform(), parameters)
            else:
                family = constriction.stream.model.Categorical(perfect=False)
                coder.encode_reverse(symbols, family, np.take(counts, parameters, axis=0))
        return to_bytes(coder)


class StreamReader:
    """Reads what a writer wrote.

    Args:
        data: [n].

    Raises:
        ArtifactError: They are no code.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._coder = from_bytes(data)

    def code(self, counts: Integers, contexts: Integers, symbols: Integers) -> None:
        family = constriction.stream.model.Categorical(perfect=False)
        symbols[:] = self._coder.decode(family, np.take(counts.astype(np.float32), contexts, axis=0))

    def code_uniform(self, sizes: Integers, symbols: Integers) -> None:
        symbols[:] = self._coder.decode(constriction.stream.model.Uniform(), sizes.astype(np.int32))

    def check_end(self) -> None:
        """Raises:
            ArtifactError: Bytes are left, or there were too few, so what was read is not what was written.
        """
        if self._coder.decode(constriction.stream.model.Uniform(2)) != _MARK or not self._coder.is_empty():
            raise ArtifactError(DAMAGED)
