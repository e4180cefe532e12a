import numpy as np
import pytest
from conftest import RESNET20, few_or_all
from safetensors.numpy import load_file

from timm_sbs.codec.entropy import encode_integers
from timm_sbs.codec.matrices import decode_matrices, encode_matrices
from timm_sbs.common.errors import ArtifactError


def normal(shape, scale, seed=0):
    return np.rint(np.random.default_rng(seed).normal(size=shape) * scale).astype(np.int64)


def entropy(matrix):
    """Bytes of a code that knows how often each integer comes, and nothing else."""
    counts = np.unique(matrix, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


def rounded_resnet20(bits, rows):
    """The integers of its convolutions, with a step for each filter, or one for all."""
    matrices = []
    for weight in load_file(RESNET20).values():
        if weight.ndim == 4:
            step = np.sqrt((weight ** 2).mean(axis=(1, 2, 3) if rows else None, keepdims=True)) * 2 ** (2.05 - bits)
            matrices.append(np.rint(weight / step).astype(np.int64).reshape(*weight.shape[:2], -1))
    return matrices


def decoded(matrices):
    return decode_matrices(encode_matrices(matrices), [matrix.shape for matrix in matrices])


@pytest.mark.parametrize('matrices', [
    [], [np.zeros((0, 3, 9))], [np.zeros((3, 0, 9))], [np.zeros((1, 1, 1))], [np.full((1, 1, 1), 7)],
    [np.zeros((4, 5, 9))], [np.full((5, 7, 1), -300)], [np.array([[[-32768], [32767]]])],
    [np.array([[[-32768], [-32767]]])], [np.full((2, 2, 9), -32768), np.full((2, 2, 9), 32767)],
    [normal((16, 16, 9), 1), normal((40, 3, 49), 8), normal((7, 30, 1), 300), normal((1, 90, 1), 3) + 1000],
    [normal((9, 4, 25), .05), normal((5, 6, 8), 2), normal((200, 1, 9), 1), normal((1, 200, 9), 1)],
    [np.where(normal((30, 20, 1), 1) > 2, 32767, 0)]])
def test_matrices_round_trip(matrices):
    matrices = [np.asarray(matrix, dtype=np.int64) for matrix in matrices]
    found = decoded(matrices)
    assert len(found) == len(matrices) and all(map(np.array_equal, found, matrices))


def test_every_class_of_integers_round_trips():
    edges = np.array([[sign * ((part << octave) + around) for sign in (-1, 1) for part in (4, 5, 6, 7)
                       for octave in range(13) for around in (-1, 0, 1)]])
    assert np.array_equal(decoded([edges[..., None]])[0], edges[..., None])


def test_what_is_given_stays_as_it_is_in_whatever_type_and_memory_order():
    matrix = normal((9, 6, 8), 3).astype(np.int8).transpose(2, 1, 0)
    before = matrix.copy()
    assert np.array_equal(decoded([matrix])[0], before) and np.array_equal(matrix, before)


@pytest.mark.parametrize(
    ('bits', 'rows', 'share'), [(1., True, .895), (1.5, True, .89), (2.5, True, .905), (1.5, False, .87)])
def test_the_rounded_weights_of_a_network_take_less_than_their_entropy(bits, rows, share):
    matrices = rounded_resnet20(bits, rows)
    coded = len(encode_matrices(matrices))
    assert coded < share * sum(map(entropy, matrices))
    assert coded < share * len(encode_integers(matrices))


@pytest.mark.parametrize('scale', [.3, 1, 4, 20, 300])
def test_independent_integers_take_their_entropy(scale):
    """To within 1 % and 150 bytes for what is learned."""
    matrix = normal((200, 250, 1), scale)
    assert entropy(matrix) * .999 < len(encode_matrices([matrix])) < 1.01 * entropy(matrix) + 150


def test_rows_and_columns_of_other_scales_are_noticed():
    rng = np.random.default_rng(0)
    scales = 2 ** rng.normal(size=(2, 128))
    matrix = normal((128, 128, 1), scales[0][:, None, None] * scales[1][None, :, None])
    assert len(encode_matrices([matrix])) < .93 * entropy(matrix)


def test_a_later_matrix_is_coded_by_what_was_learned():
    one, two = rounded_resnet20(1.5, True)[2:4]
    together, alone = len(encode_matrices([one, two])), len(encode_matrices([one])) + len(encode_matrices([two]))
    assert together < alone - 8


def test_a_distance_from_zero_costs_little():
    matrix = normal((1, 500, 1), 3)
    assert len(encode_matrices([matrix + 2000])) <= len(encode_matrices([matrix])) + 4


def test_small_matrices_take_few_bytes():
    assert len(encode_matrices([np.zeros((64, 64, 9), np.int64)])) <= 8
    assert len(encode_matrices([np.arange(-8, 8).reshape(4, 4, 1)])) <= 16


@pytest.mark.parametrize('cut', [1, 4, 40, 10_000])
def test_truncated_codes_are_refused(cut):
    matrix = normal((20, 10, 9), 3)
    data = encode_matrices([matrix])
    with pytest.raises(ArtifactError, match='damaged'):
        decode_matrices(data[:-cut] if cut < len(data) else data[:0], [matrix.shape])


def test_codes_of_other_shapes_are_refused():
    data = encode_matrices([normal((20, 10, 9), 3)])
    for shapes in [], [(20, 10, 8)], [(20, 10, 9), (20, 10, 9)]:
        with pytest.raises(ArtifactError, match='damaged'):
            decode_matrices(data, shapes)


@few_or_all(150, 3000)
def test_damaged_bytes_are_refused_or_give_matrices_of_these_shapes(count):
    rng = np.random.default_rng(0)
    matrices = [normal((8, 6, 9), 1), normal((1, 30, 1), 200), normal((6, 9, 1), 5)]
    shapes = [matrix.shape for matrix in matrices]
    data = encode_matrices(matrices)
    refused = 0
    for index in range(count):
        damaged = data.copy()
        damaged[rng.integers(len(data))] ^= rng.integers(1, 256)
        if index % 3 == 0:
            damaged = rng.integers(0, 256, 4 * rng.integers(1, 200)).astype(np.uint8)
        try:
            assert [matrix.shape for matrix in decode_matrices(damaged, shapes)] == shapes
        except ArtifactError:
            refused += 1
    assert refused > count / 2
