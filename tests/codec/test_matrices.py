import numpy as np
import pytest
from conftest import RESNET20, few_or_all
from safetensors.numpy import load_file

from timm_sbs.codec.matrices import decode_matrices, encode_matrices
from timm_sbs.common.errors import ArtifactError


def normal(shape, scale):
    return np.rint(np.random.default_rng(0).normal(size=shape) * scale).astype(np.int64)


def entropy(matrix):
    """Bytes of a code that knows how often each integer comes, and nothing else."""
    counts = np.unique(matrix, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


def rounded_resnet20(bits):
    """The integers of its convolutions, with a step for each filter."""
    weights = [weight for weight in load_file(RESNET20).values() if weight.ndim == 4]
    steps = [np.sqrt((weight ** 2).mean(axis=(1, 2, 3), keepdims=True)) * 2 ** (2.05 - bits) for weight in weights]
    return [np.rint(weight / step).astype(np.int64).reshape(*weight.shape[:2], -1)
            for weight, step in zip(weights, steps)]


def decoded(matrices):
    return decode_matrices(encode_matrices(matrices), [matrix.shape for matrix in matrices])


@pytest.mark.parametrize('matrices', [
    [], [np.zeros((0, 3, 9))], [np.zeros((1, 1, 1))], [np.full((1, 1, 1), 7)], [np.zeros((4, 5, 9))],
    [np.full((5, 7, 1), -300)], [np.array([[[-32768], [32767]]])], [np.array([[[-32768], [-32767]]])],
    [np.full((2, 2, 9), -32768), np.full((2, 2, 9), 32767)],
    [normal((16, 16, 9), 1), normal((40, 3, 49), 8), normal((7, 30, 1), 300), normal((1, 90, 1), 3) + 1000],
    [normal((9, 4, 25), .05), normal((5, 6, 8), 2), normal((200, 1, 9), 1), normal((1, 200, 9), 1)],
    [np.where(normal((30, 20, 1), 1) > 2, 32767, 0), np.zeros((2, 2, 1)), np.full((3, 3, 1), 5)]])
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


@pytest.mark.parametrize(('bits', 'share'), [(1., .9), (2.5, .91)])
def test_the_rounded_weights_of_a_network_take_less_than_their_entropy(bits, share):
    matrices = rounded_resnet20(bits)
    assert len(encode_matrices(matrices)) < share * sum(map(entropy, matrices))


@pytest.mark.parametrize('scale', [.3, 4, 300])
def test_independent_integers_take_their_entropy(scale):
    """To within 1 % and 150 bytes for what is learned."""
    matrix = normal((200, 250, 1), scale)
    assert entropy(matrix) * .999 < len(encode_matrices([matrix])) < 1.01 * entropy(matrix) + 150


def test_rows_and_columns_of_other_scales_are_noticed():
    scales = 2 ** np.random.default_rng(0).normal(size=(2, 128))
    matrix = normal((128, 128, 1), scales[0][:, None, None] * scales[1][None, :, None])
    assert len(encode_matrices([matrix])) < .93 * entropy(matrix)


def test_a_matrix_is_coded_by_what_was_learned_of_others():
    one, two = rounded_resnet20(1.5)[2:4]
    together, alone = len(encode_matrices([one, two])), len(encode_matrices([one])) + len(encode_matrices([two]))
    assert together < alone - 8


def test_small_matrices_and_a_distance_from_zero_take_few_bytes():
    assert len(encode_matrices([np.zeros((64, 64, 9), np.int64)])) <= 8
    assert len(encode_matrices([np.arange(-8, 8).reshape(4, 4, 1)])) <= 16
    matrix = normal((1, 500, 1), 3)
    assert len(encode_matrices([matrix + 2000])) <= len(encode_matrices([matrix])) + 4


def test_codes_that_are_truncated_or_of_other_shapes_are_refused():
    data = encode_matrices([normal((20, 10, 9), 3)])
    for cut, shapes in ((data[:-4], [(20, 10, 9)]), (data[:-1], [(20, 10, 9)]), (data[:0], [(20, 10, 9)]), (data, []),
                        (data, [(20, 10, 8)]), (data, [(20, 10, 9), (20, 10, 9)])):
        with pytest.raises(ArtifactError, match='damaged'):
            decode_matrices(cut, shapes)


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
