"""How integers become symbols and bytes: classes and contexts that adapt, so that no tables are stored.

The rounded weights of a network are not independent. Filters, channels and positions in a kernel differ in scale, and
neighbours in a kernel are alike in size and sign. So each integer is coded by counts of those before it that had the
same context, which consists of

- the magnitude to expect, from the integers known of its row, its column, its position in the kernel, and its kernel;
- the prediction from the neighbours above and to the left in its kernel, whose sign is likelier than the other.

All matrices with kernels of the same size are coded at once, in rounds that double what is known of each of them: few
calls with many integers, since a call costs as much as a thousand of them. A round takes kernels along diagonals, so
that it has about as many of every row and every column, and one position of all its kernels after the other. All of
this is exact: in integers, or in floats that hold integers. Logarithms are read from the exponents and mantissas of
floats.
"""
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from timm_sbs.codec.streams import DAMAGED, Integers, Stream, StreamReader, StreamWriter
from timm_sbs.common.errors import ArtifactError

__all__ = ['BOUNDS', 'PREDICTIONS', 'encode_matrices', 'decode_matrices']

Shape = tuple[int, int, int]

# Magnitudes fall into classes: 0, ..., 7, 8-9, 10-11, 12-13, 14-15, 16-19, ... Which one of a class is stored as it is.
BOUNDS = np.array([0, 1, 2, 3, *(start << octave for octave in range(14) for start in (4, 5, 6, 7)), 1 << 16])
WIDTHS = np.diff(BOUNDS)
CLASSES = len(WIDTHS)
FIRST_WIDE = int(np.argmax(WIDTHS > 1))
# What symbols stand for: 0, and the smallest integers of each class c, positive (2c - 1) and negative (2c).
VALUES = np.concatenate([[0], np.stack([BOUNDS[1:-1], -BOUNDS[1:-1]], axis=1).reshape(-1)]).astype(np.int32)

LARGEST = 32768  # magnitude of an integer
OCTAVE = 64  # logarithms are in 1/64 octave
UNIT = 1 << 12  # magnitudes to expect are in 1/4096
LARGEST_LOG, QUARTER = 40 * OCTAVE, 4  # of these; and the bits that make logarithms quarters of an octave
SUMS = 100  # quarters of an octave of sums in a kernel, up to 2^25
BUCKET = OCTAVE // 2  # of magnitudes to expect, which are contexts
FIRST_BUCKET, BUCKETS = 5 * OCTAVE, 38  # from 1/128 to 4096
PREDICTIONS = 6  # from neighbours in a kernel: magnitudes 0 to 4, and more
AXIS_PRIOR, POSITION_PRIOR, KERNEL_PRIOR, MATRIX_PRIOR = 20, 30, 4, 20  # known integers worth as much as a guess
KERNEL_SHARE = 45  # of 64: how far the magnitudes of the kernel itself are trusted
INCREMENT, PRIOR = 512, 8192  # of counts: for an integer, and their sum at first
FIRST_ROUND, FIRST_KERNELS, MOST_ROUNDS = 256, 4, 11  # the first has so many integers, and kernels of each matrix
HEADER = np.array([CLASSES, 64, 2])  # numbers of largest classes, of magnitudes in half octaves, of offset or none


def _log2(values: Integers) -> NDArray[np.int32]:
    """Logarithms of integers from 1 on, linear between powers of two."""
    return (np.maximum(values, 1).astype(np.float32).view(np.int32) >> 17) - 127 * OCTAVE


def _exp2(logarithms: Integers) -> NDArray[np.int64]:
    """Inverse of :func:`_log2`, rounded down."""
    return ((logarithms.astype(np.int32) + 127 * OCTAVE) << 17).view(np.float32).astype(np.int64)


def _first_counts() -> NDArray[np.int64]:
    """Counts [contexts, symbols] of integers whose magnitude is geometrically distributed."""
    means = _exp2(FIRST_BUCKET + BUCKET // 2 + BUCKET * np.arange(BUCKETS))
    one = 1 << 24
    step = (means << 24) // (means + UNIT)  # the probability of 1 or more, and of n + 1 or more among n or more
    tails = [np.full(BUCKETS, one)]
    for index in range(1, CLASSES + 1):
        tails.append(tails[-1] * step >> 24 if index <= 8 else tails[index - 4] * tails[index - 4] >> 24)
    classes = -np.diff(np.stack(tails, axis=1), axis=1) * PRIOR
    counts = np.concatenate([classes[:, :1] >> 24, np.repeat(classes[:, 1:] >> 25, 2, axis=1)], axis=1)
    return np.repeat(np.maximum(1, counts), PREDICTIONS, axis=0)


@lru_cache(maxsize=64)
def _context_table(position: int) -> NDArray[np.uint8]:
    """Contexts of prediction 0 at a position of the kernel, by the magnitude to expect and by the sum of the magnitudes
    before it in the kernel, plus one, both in quarters of an octave: [magnitudes * SUMS]."""
    expected = ((np.arange((LARGEST_LOG >> QUARTER) + 1) << QUARTER) + (1 << QUARTER - 1))[:, None].repeat(SUMS, axis=1)
    known = ((np.arange(SUMS) + (127 << 2)).astype(np.int32) << 21).view(np.float32).astype(np.int64) - 1
    if position:
        own = _log2((known * UNIT + KERNEL_PRIOR * _exp2(expected)) // (position + KERNEL_PRIOR))
        expected += (own - expected) * KERNEL_SHARE // 64
    return (np.clip((expected - FIRST_BUCKET) // BUCKET, 0, BUCKETS - 1) * PREDICTIONS).astype(np.uint8).reshape(-1)


def _contexts(position: int, expected: Integers, kernel_sums: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Contexts [n] of prediction 0, by the magnitudes to expect and the sums of those before in the kernels."""
    sums = ((kernel_sums + 1).astype(np.float32).view(np.int32) >> 21) - (127 << 2)
    sums += SUMS * (np.clip(expected, 0, LARGEST_LOG) >> QUARTER).astype(np.int32)
    return _context_table(position)[sums]


class _Sums:
    """Sums of the magnitudes known in the rows, or in the columns, of all matrices, and how many they are."""

    def __init__(self, sizes: Integers) -> None:
        self._matrix = np.repeat(np.arange(len(sizes)), sizes)  # of each row
        self._sums, self._numbers = np.zeros((2, len(self._matrix)), np.int64)

    def add(self, rows: Integers, magnitudes: Integers, each: int) -> None:
        count = len(self._sums)
        self._sums += np.bincount(rows, magnitudes, minlength=count).astype(np.int64)  # floats that hold integers
        self._numbers += each * np.bincount(rows, minlength=count)

    def relative(self, means: Integers) -> NDArray[np.int16]:
        """Logarithm of each row's mean magnitude over that of its matrix."""
        own = means[self._matrix]
        known = (self._sums * UNIT + AXIS_PRIOR * own) // (self._numbers + AXIS_PRIOR)
        return (_log2(known) - _log2(own)).astype(np.int16)


class _Round:
    """Kernels that are coded together: some of each matrix, along its diagonals, which have one kernel of each row.

    Attributes:
        rows, columns: Of each kernel, counted through all matrices.
        index: Of each kernel among those of all matrices, row by row.
        numbers: Of kernels of each matrix.
    """

    def __init__(self, shapes: NDArray[np.int32], starts: Integers, ends: Integers) -> None:
        self.numbers = ends - starts
        before = np.cumsum(shapes, axis=0, dtype=np.int32) - shapes
        self.rows, self.columns, self.index = np.empty((3, self.numbers.sum()), np.int32)
        at = 0
        for (height, width, _), (first_row, first_column, first), start, end in zip(shapes, before, starts, ends):
            place = np.arange(start, end, dtype=np.int32)
            row = place % height
            column = (row * width // height + place // height) % width
            here = slice(at, at := at + len(place))
            self.rows[here], self.columns[here] = row + first_row, column + first_column
            self.index[here] = row * width + column + first


def _rounds(shapes: Sequence[Shape]) -> Iterator[tuple[_Round, bool]]:
    """All kernels of matrices [rows, columns, positions]: each round has half of those up to its end. And whether
    it is followed by another. They are made one by one, for the last ones are as large as the matrices."""
    rows, columns, positions = np.array(shapes, np.int32).T
    counts = rows * columns
    last = int(np.clip(np.log2(counts.sum() * positions[0] / FIRST_ROUND), 0, MOST_ROUNDS - 1))
    ends = [np.minimum(counts, np.maximum(counts >> last - number, FIRST_KERNELS * (number + 1)))
            for number in range(last)]
    ends = [np.zeros_like(counts), *ends, counts]
    for start, end in pairwise(ends):
        yield _Round(np.stack([rows, columns, counts], axis=1), start, end), end is not counts


def _prediction(planes: NDArray[np.int32], position: int) -> NDArray[np.int32] | None:
    """Twice the sum of the values above and to the left, less the one between them, of square kernels [positions, n];
    None where there is no such neighbour."""
    side = round(len(planes) ** .5)
    row, column = divmod(position, side)
    if not position or side * side != len(planes):
        return None
    if not (row and column):
        return 2 * planes[position - side if row else position - 1]
    found = 2 * (planes[position - side] + planes[position - 1])
    return found - planes[position - side - 1] * (found != 0)


def _code_symbols(
        stream: Stream, counts: Integers, contexts: NDArray[np.uint8], values: NDArray[np.int32], learn: bool,
) -> NDArray[np.int32]:
    """Code integers [n], and learn them or not. A reader finds them. Returns them."""
    symbols = np.empty(len(values), np.int32)
    if not stream.reading:
        symbols[:] = 2 * (np.searchsorted(BOUNDS, np.abs(values), side='right') - 1) - (values > 0)
    stream.code(counts, contexts, symbols, INCREMENT if learn else 0)
    found = VALUES[symbols]
    wide = np.flatnonzero(symbols >= 2 * FIRST_WIDE - 1)
    if len(wide):
        inside = np.abs(values[wide]) - np.abs(found[wide])
        stream.code_uniform(WIDTHS[(symbols[wide] + 1) // 2], inside)
        found[wide] += np.where(found[wide] > 0, inside, -inside)
    return found


def _code_group(
        stream: Stream, counts: Integers, kernels: NDArray[np.int32], shapes: Sequence[Shape], guesses: Integers,
) -> None:
    """Code matrices with kernels of one size.

    Args:
        counts: Learned from the groups before.
        kernels: [kernels, positions], matrix after matrix; a reader fills them.
        guesses: Mean magnitude of each, in units, to start from.
    """
    rows, columns = (_Sums(np.array([shape[axis] for shape in shapes])) for axis in (0, 1))
    totals, number = guesses * MATRIX_PRIOR // UNIT, np.full(len(shapes), MATRIX_PRIOR)
    by_position, known = np.zeros((kernels.shape[1], len(shapes)), np.int64), np.zeros(len(shapes), np.int64)
    for part, learn in _rounds(shapes):
        present = part.numbers > 0
        starts = (np.cumsum(part.numbers) - part.numbers)[present]
        means = np.maximum(1, totals * UNIT // number)
        relative = rows.relative(means)[part.rows] + columns.relative(means)[part.columns]
        planes = np.empty((kernels.shape[1], len(relative)), np.int32)
        if not stream.reading:
            planes[:] = kernels[part.index].T
        kernel_sums = np.zeros(len(relative), np.int32)
        for position in range(len(planes)):
            means = np.maximum(1, totals * UNIT // number)
            expected = _log2((by_position[position] * UNIT + POSITION_PRIOR * means) // (known + POSITION_PRIOR))
            contexts = _contexts(position, np.repeat(expected.astype(np.int16), part.numbers) + relative, kernel_sums)
            prediction = _prediction(planes, position)
            if prediction is None:
                planes[position] = _code_symbols(stream, counts, contexts, planes[position], learn)
            else:
                sign = prediction >> 31 | 1  # -1 or 1
                contexts += np.minimum(sign * prediction, PREDICTIONS - 1).astype(np.uint8)
                planes[position] = sign * _code_symbols(stream, counts, contexts, sign * planes[position], learn)
            if not learn and position + 1 == len(planes):
                break
            magnitudes = np.abs(planes[position])
            kernel_sums += magnitudes
            sums = np.zeros(len(shapes), np.int64)
            sums[present] = np.add.reduceat(magnitudes, starts, dtype=np.int64)
            by_position[position] += sums
            totals, number = totals + sums, number + part.numbers
        if stream.reading:
            kernels[part.index] = planes.T
        if learn:
            known += part.numbers
            rows.add(part.rows, kernel_sums, len(planes))
            columns.add(part.columns, kernel_sums, len(planes))
            del part, relative, planes, kernel_sums, contexts, prediction, magnitudes  # before the next are made


def _header(matrix: Integers) -> tuple[int, int, int]:
    """A matrix's largest class, the logarithm of its mean magnitude in half octaves, and an offset if its integers are
    far from 0."""
    if not matrix.size:
        return 0, 0, 0
    center = int(np.rint(matrix.mean()))
    offset = center if 2 * np.abs(matrix - center).sum() < np.abs(matrix).sum() else 0
    magnitudes = np.abs(matrix - offset)
    mean = int(_log2(np.array(magnitudes.sum() * UNIT // magnitudes.size))) // BUCKET
    return int(np.searchsorted(BOUNDS, magnitudes.max(), side='right')) - 1, min(mean, int(HEADER[1]) - 1), offset


def _code(
        stream: Stream, shapes: Sequence[Shape], headers: NDArray[np.int64], matrices: Sequence[NDArray[np.int64]],
) -> list[NDArray[np.int32]]:
    """Code matrices, given their headers [matrices, 3]; a reader, which has neither, finds them."""
    coded = np.concatenate([headers[:, :2], headers[:, 2:] != 0], axis=1).reshape(-1)
    stream.code_uniform(np.tile(HEADER, len(headers)), coded)
    (classes, logarithms, far), offsets = coded.reshape(-1, 3).T, headers[:, 2] + LARGEST
    distances = offsets[far > 0]
    stream.code_uniform(np.full(len(distances), 2 * LARGEST), distances)
    offsets[:] = 0
    offsets[far > 0] = distances - LARGEST
    counts, found = _first_counts(), dict[int, NDArray[np.int32]]()
    for positions in sorted({shape[2] for shape in shapes}):
        group = [index for index, shape in enumerate(shapes) if shape[2] == positions and classes[index]]
        if not group:
            continue
        sizes = [math.prod(shapes[index][:2]) for index in group]
        kernels = np.empty((sum(sizes), positions), np.int32)
        if not stream.reading:
            np.concatenate([matrices[index].reshape(-1, positions) - offsets[index] for index in group], out=kernels)
        _code_group(stream, counts[:, :2 * classes[group].max() + 1], kernels, [shapes[index] for index in group],
                    _exp2(logarithms[group] * BUCKET + BUCKET // 2))
        for index, part in zip(group, np.split(kernels, np.cumsum(sizes)[:-1])):
            part += offsets[index].astype(np.int32)
            found[index] = part.reshape(shapes[index])
    return [found[index] if index in found else np.full(shape, offsets[index], np.int32)
            for index, shape in enumerate(shapes)]


def encode_matrices(matrices: Sequence[Integers]) -> NDArray[np.uint8]:
    """Code matrices [rows, columns, positions] of integers from -32768 to 32767 as one run of bytes.

    A convolution's weight [O, I, 3, 3] is one of [O, I, 9], a linear layer's [O, I] is [O, I, 1], a vector [1, N, 1].
    Best are integers around 0.
    """
    writer, exact = StreamWriter(), [matrix.astype(np.int64) for matrix in matrices]
    headers = np.array([_header(matrix) for matrix in exact], np.int64).reshape(-1, 3)
    _code(writer, [matrix.shape for matrix in exact], headers, exact)
    return writer.to_bytes()


def decode_matrices(data: NDArray[np.uint8], shapes: Sequence[Shape]) -> list[NDArray[np.int32]]:
    """Inverse of :func:`encode_matrices`, given the shape of each matrix.

    Raises:
        ArtifactError: The bytes are not the code of such matrices.
    """
    reader = StreamReader(data)
    matrices = _code(reader, shapes, np.zeros((len(shapes), 3), np.int64), [])
    reader.check_end()
    if any(matrix.max(initial=0) > LARGEST or matrix.min(initial=0) < -LARGEST for matrix in matrices):
        raise ArtifactError(DAMAGED)
    return matrices
