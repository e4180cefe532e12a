"""A graph of ONNX nodes while it is built: constants and operators with the shortest names that are free."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import helper, numpy_helper

__all__ = ['FEW', 'Graph']

FEW = 64  # integers that take fewer bytes as they are than with nodes that put them together

_DIGITS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'


class Graph:
    """Nodes in the order in which they are computed, and constants. Names of values are what its methods return.

    Equal constants and equal nodes are there once.

    Args:
        prefix: Of all names.

    Example:
        >>> graph = Graph()
        >>> graph.add('Mul', graph.constant([1., 2.], np.float32), graph.constant(2., np.float32))
        'c'
    """

    def __init__(self, prefix: str = '') -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[Any, Any] = {}
        self._names = 0

    def name(self) -> str:
        """A new name."""
        self._names += 1
        number, name = self._names, ''
        while number:
            number, digit = divmod(number - 1, len(_DIGITS))
            name = _DIGITS[digit] + name
        return self._prefix + name

    def constant(self, values: ArrayLike, dtype: DTypeLike | None = None) -> str:
        """A constant of the graph."""
        array = np.ascontiguousarray(values, dtype).reshape(np.shape(values))
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = self.name()
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def integers(self, values: ArrayLike, dtype: DTypeLike = np.int32) -> str:
        """Integers of a type, stored in as few bytes as they take; those of 16 bits as two bytes, for the build of ONNX
        Runtime with which transformers.js runs in browsers reads neither int16 nor uint16."""
        array = np.asarray(values).astype(np.int64)

        def read(integers: NDArray[np.int64], stored: DTypeLike) -> str:
            value = self.constant(integers, stored)
            return value if np.dtype(stored) == np.dtype(dtype) else self.cast(value, dtype)

        types = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64)
        smallest = next(t for t in types if not array.size or (
            np.iinfo(t).min <= array.min() and array.max() <= np.iinfo(t).max))
        if smallest not in (np.int16, np.uint16):
            return read(array, smallest)
        if array.size <= FEW:
            return read(array, np.int32)
        high = read(array >> 8, np.int8 if smallest is np.int16 else np.uint8)
        return self.add('Add', self.add('Mul', high, self.constant(256, dtype)), read(array & 255, np.uint8))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The output of an operator."""
        return self.split(op, *inputs, count=1, **attributes)[0]

    def split(self, op: str, *inputs: str, count: int, **attributes: Any) -> tuple[str, ...]:
        """So many outputs of an operator."""
        key = op, inputs, count, tuple(sorted(attributes.items()))
        if key not in self._known:
            self._known[key] = tuple(self.name() for _ in range(count))
            self.nodes.append(helper.make_node(op, inputs, self._known[key], **attributes))
        return self._known[key]

    def cast(self, value: str, dtype: DTypeLike) -> str:
        return self.add('Cast', value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        return self.add('Reshape', value, self.constant(shape, np.int64))

    def pieces(self, value: str, sizes: Sequence[int], axis: int = 0) -> tuple[str, ...]:
        """A value cut along an axis."""
        if len(sizes) == 1:
            return (value,)
        return self.split('Split', value, self.constant(sizes, np.int64), count=len(sizes), axis=axis)

    def joined(self, values: Sequence[str], axis: int = 0) -> str:
        """Inverse of :meth:`pieces`."""
        return values[0] if len(values) == 1 else self.add('Concat', *values, axis=axis)
