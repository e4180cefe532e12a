"""Matrices of small integers to bytes and back, by contexts that adapt: no tables are stored.

The rounded weights of a network are not independent. Filters, channels and places in a kernel differ in scale, and
neighbours in a kernel are alike in size and sign. So each integer is coded by counts of those before it that had the
same context, which consists of

- the magnitude to expect, from the integers known of its row, its column, its place in the kernel, and its kernel;
- the prediction from the neighbours above and to the left in its kernel, whose sign is likelier than the other.

A matrix is coded along diagonals, so that each part of it holds about as many kernels of every row and every column,
in blocks that grow with what is known, and in a block one place of the kernel after the other. Counts go on from
matrix to matrix. All of this is exact: in integers, or in floats that hold integers. Logarithms are read from the
exponents and mantissas of floats.
"""
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from timm_sbs.codec.entropy import DAMAGED
from timm_sbs.codec.streams import Stream, StreamReader, StreamWriter
from timm_sbs.common.errors import ArtifactError

__all__ = ['encode_matrices', 'decode_matrices']

Integers = NDArray[np.int64]
Shape = tuple[int, int, int]

# Magnitudes fall into classes: 0, ..., 7, 8-9, 10-11, 12-13, 14-15, 16-19, ... The place in a class is stored as it is.
BOUNDS = np.array([0, 1, 2, 3, *(start << octave for octave in range(14) for start in (4, 5, 6, 7)), 1 << 16])
WIDTHS = np.diff(BOUNDS)
CLASSES = len(WIDTHS)
FIRST_WIDE = int(np.argmax(WIDTHS > 1))

LARGEST = 32768  # magnitude of an integer
OCTAVE = 64  # logarithms are in 1/64 octave
UNIT = 1 << 12  # magnitudes to expect are in 1/4096
LARGEST_LOG = 40 * OCTAVE
BUCKET = OCTAVE // 2  # of magnitudes to expect
FIRST_BUCKET, BUCKETS = 5 * OCTAVE, 38  # from 1/128 to 4096
PREDICTIONS = 6  # 0 to 4, and more
AXIS_PRIOR, PLACE_PRIOR, KERNEL_PRIOR, MATRIX_PRIOR = 15, 30, 3, 10  # integers known that are worth as much as a guess
KERNEL_SHARE = 45  # of 64: how far the magnitudes of the kernel itself are trusted
INCREMENT, PRIOR, LIMIT = 32, 128, 32000  # of counts: for an integer, their sum at first, and at most
SMALLEST_BLOCK, LARGEST_BLOCK = 16, 1 << 16
HEADER = np.array([CLASSES, 64, 2])  # numbers of largest classes, of magnitudes in half octaves, of offset or none


def _log2(values: Integers) -> Integers:
    """Logarithms of integers from 1 on, linear between powers of two."""
    return (np.maximum(values, 1).astype(np.float32).view(np.int32) >> 17).astype(np.int64) - 127 * OCTAVE


def _exp2(logarithms: Integers) -> Integers:
    """Inverse of :func:`_log2`, rounded down."""
    return ((logarithms.astype(np.int32) + 127 * OCTAVE) << 17).view(np.float32).astype(np.int64)


def _first_counts() -> Integers:
    """Counts [BUCKETS, symbols] of integers whose magnitude is geometrically distributed."""
    means = _exp2(FIRST_BUCKET + BUCKET // 2 + BUCKET * np.arange(BUCKETS))
    one = 1 << 24
    step = (means << 24) // (means + UNIT)  # the probability of 1 or more, and of n + 1 or more among n or more
    tails = [np.full(BUCKETS, one)]
    for index in range(1, CLASSES + 1):
        tails.append(tails[-1] * step >> 24 if index <= 8 else tails[index - 4] * tails[index - 4] >> 24)
    classes = -np.diff(np.stack(tails, axis=1), axis=1) * PRIOR
    return np.maximum(1, np.concatenate([classes[:, :1] >> 24, np.repeat(classes[:, 1:] >> 25, 2, axis=1)], axis=1))


class _Counts:
    """How often each symbol came in each context. Symbol 0 is 0; 2c - 1 and 2c are class c, positive and negative."""

    def __init__(self) -> None:
        self._table = np.repeat(_first_counts(), PREDICTIONS, axis=0)

    def code_integers(self, stream: Stream, contexts: Integers, values: Integers, largest_class: int) -> Integers:
        """Code integers [n] of classes up to the largest, and learn them. Returns them."""
        classes = np.searchsorted(BOUNDS, np.abs(values), side='right') - 1
        places = np.abs(values) - BOUNDS[classes]
        symbols = 2 * classes - (values > 0)
        table = self._table[:, :2 * largest_class + 1]
        stream.code(table, contexts, symbols)
        self._learn(table, contexts, symbols)
        classes = (symbols + 1) // 2
        magnitudes = BOUNDS[classes]
        wide = np.flatnonzero(classes >= FIRST_WIDE)
        if len(wide):
            inside = places[wide]
            stream.code_uniform(WIDTHS[classes[wide]], inside)
            magnitudes[wide] += inside
        return np.where(symbols & 1, magnitudes, -magnitudes)

    @staticmethod
    def _learn(table: Integers, contexts: Integers, symbols: Integers) -> None:
        table += INCREMENT * np.bincount(contexts * table.shape[1] + symbols, minlength=table.size).reshape(table.shape)
        sums = table.sum(axis=1)
        full = np.flatnonzero(sums > LIMIT)
        table[full] = np.maximum(1, table[full] * LIMIT // sums[full, None])


class _Sums:
    """Sums of the magnitudes known in each of ``count`` parts of a matrix, and how many they are."""

    def __init__(self, count: int) -> None:
        self._sums, self._numbers = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def add(self, parts: Integers, magnitudes: Integers, each: int) -> None:
        count = len(self._sums)
        self._sums += np.bincount(parts, magnitudes, minlength=count).astype(np.int64)  # floats that hold integers
        self._numbers += each * np.bincount(parts, minlength=count)

    def relative(self, mean: Integers, prior: int) -> Integers:
        """Logarithm of each part's mean magnitude over that of the matrix."""
        return _log2((self._sums * UNIT + prior * mean) // (self._numbers + prior)) - _log2(mean)


def _diagonals(rows: int, columns: int) -> Integers:
    """Kernels [rows * columns] in the order of coding. One diagonal holds one of each row."""
    row = np.arange(rows)
    column = (row * columns // rows + np.arange(columns)[:, None]) % columns
    return (row * columns + column).reshape(-1)


def _blocks(kernels: int, places: int) -> Iterator[slice]:
    """Blocks as large as all before them, or half as large where a block is one step."""
    start, end = 0, SMALLEST_BLOCK
    while start < kernels:
        yield slice(start, min(end, kernels))
        start, end = end, end + min(LARGEST_BLOCK, end // 2 if places == 1 else end)


def _prediction(planes: Integers, place: int) -> Integers:
    """Twice the sum of the values above and to the left, less the one between them, of square kernels [places, n]."""
    side = round(len(planes) ** .5)
    row, column = divmod(place, side)
    found = np.zeros(planes.shape[1], np.int64)
    if side * side == len(planes):
        if row:
            found += 2 * planes[place - side]
        if column:
            found += 2 * planes[place - 1]
        if row and column:
            found -= np.where(found != 0, planes[place - side - 1], 0)
    return found


def _code_header(stream: Stream, planes: Integers) -> tuple[int, int, int]:
    """Largest class, mean magnitude in units to start from, and an offset of integers that are far from 0."""
    center = int(np.rint(planes.mean()))
    offset = center if 2 * np.abs(planes - center).sum() < np.abs(planes).sum() else 0
    magnitudes = np.abs(planes - offset)
    mean = _log2(np.array([int(magnitudes.sum()) * UNIT // magnitudes.size]))[0]
    header = np.array([
        np.searchsorted(BOUNDS, magnitudes.max(), side='right') - 1, min(mean // BUCKET, HEADER[1] - 1), offset != 0])
    stream.code_uniform(HEADER, header)
    if header[2]:
        halves = np.array([(offset >> 8) + 128, offset & 255])
        stream.code_uniform(np.array([256, 256]), halves)
        offset = int((halves[0] - 128) * 256 + halves[1])
    return int(header[0]), int(_exp2(header[1:2] * BUCKET + BUCKET // 2)[0]), offset


def _code_matrix(stream: Stream, counts: _Counts, planes: Integers, shape: Shape) -> None:
    """Code a matrix as planes [places, kernels], kernels in the order of coding. A reader fills them."""
    rows, columns, places = shape
    if not planes.size:
        return
    largest_class, guess, offset = _code_header(stream, planes)
    planes[:] = planes - offset if largest_class else 0
    row, column = np.divmod(_diagonals(rows, columns), columns)
    row_sums, column_sums, place_sums = _Sums(rows), _Sums(columns), _Sums(places)
    total, number = guess * MATRIX_PRIOR // UNIT, MATRIX_PRIOR
    for block in _blocks(rows * columns, places) if largest_class else ():
        part, part_row, part_column = planes[:, block], row[block], column[block]
        mean = np.array([max(1, total * UNIT // number)])
        relative = (
            row_sums.relative(mean, AXIS_PRIOR)[part_row] + column_sums.relative(mean, AXIS_PRIOR)[part_column])
        kernel_sums = np.zeros(len(part_row), np.int64)
        for place in range(places):
            mean = np.array([max(1, total * UNIT // number)])
            expected = _log2(mean) + place_sums.relative(mean, PLACE_PRIOR)[place] + relative
            expected = np.clip(expected, 0, LARGEST_LOG)
            if place:
                known = kernel_sums * UNIT + KERNEL_PRIOR * _exp2(expected)
                own = _log2(known // (place + KERNEL_PRIOR))
                expected += (own - expected) * KERNEL_SHARE // 64
            prediction = _prediction(part, place)
            contexts = np.clip((expected - FIRST_BUCKET) // BUCKET, 0, BUCKETS - 1) * PREDICTIONS
            contexts += np.minimum(np.abs(prediction), PREDICTIONS - 1)
            sign = np.where(prediction < 0, -1, 1)
            part[place] = sign * counts.code_integers(stream, contexts, sign * part[place], largest_class)
            magnitudes = np.abs(part[place])
            kernel_sums += magnitudes
            place_sums.add(np.full(1, place), magnitudes.sum(keepdims=True), len(magnitudes))
            total += int(magnitudes.sum())
            number += len(magnitudes)
        row_sums.add(part_row, kernel_sums, places)
        column_sums.add(part_column, kernel_sums, places)
    planes += offset


def encode_matrices(matrices: Sequence[NDArray[np.integer]]) -> NDArray[np.uint8]:
    """Code matrices [rows, columns, places] of integers from -32768 to 32767 as one run of bytes.

    A convolution's weight [O, I, 3, 3] is one of [O, I, 9], a linear layer's [O, I] is [O, I, 1], a vector [1, N, 1].
    Best are integers around 0. Similar matrices should follow each other.
    """
    writer, counts = StreamWriter(), _Counts()
    for matrix in matrices:
        rows, columns, places = matrix.shape
        kernels = matrix.reshape(rows * columns, places).astype(np.int64)
        _code_matrix(writer, counts, kernels[_diagonals(rows, columns)].T.copy(), (rows, columns, places))
    return writer.to_bytes()


def decode_matrices(data: NDArray[np.uint8], shapes: Sequence[Shape]) -> list[NDArray[np.int32]]:
    """Inverse of :func:`encode_matrices`, given the shape of each matrix.

    Raises:
        ArtifactError: The bytes are not the code of such matrices.
    """
    reader, counts = StreamReader(data), _Counts()
    matrices = []
    for rows, columns, places in shapes:
        planes = np.zeros((places, rows * columns), np.int64)
        _code_matrix(reader, counts, planes, (rows, columns, places))
        if planes.size and np.abs(planes).max() > LARGEST:
            raise ArtifactError(DAMAGED)
        matrix = np.empty((rows * columns, places), np.int32)
        matrix[_diagonals(rows, columns)] = planes.T
        matrices.append(matrix.reshape(rows, columns, places))
    reader.check_end()
    return matrices
