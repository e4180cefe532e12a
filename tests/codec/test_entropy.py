import numpy as np
import pytest

from timm_sbs.codec.entropy import decode_integers, decode_uniform, encode_integers, encode_uniform
from timm_sbs.common.errors import ArtifactError


def normal(n, scale, seed=0):
    return np.rint(np.random.default_rng(seed).normal(size=n) * scale).astype(np.int64)


def test_uniform_round_trip_takes_the_information_in_the_symbols():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 1 << 10, 3000)
    symbols = (rng.random(3000) * sizes).astype(np.int64)
    data = encode_uniform(symbols, sizes)
    assert np.array_equal(decode_uniform(data, sizes), symbols)
    assert np.log2(sizes).sum() / 8 - 1 < len(data) < np.log2(sizes).sum() / 8 + 8


@pytest.mark.parametrize('arrays', [
    [], [[]], [[5]], [[0] * 100], [[-32768, 32767]], [[1, 2, 3], [], [-7] * 20], [normal(5000, 3), normal(300, 60, 1)]])
def test_integers_round_trip(arrays):
    arrays = [np.array(array, dtype=np.int64) for array in arrays]
    found = decode_integers(encode_integers(arrays), [len(array) for array in arrays])
    assert len(found) == len(arrays) and all(map(np.array_equal, found, arrays))


@pytest.mark.parametrize('scale', [0.3, 1, 4, 20])
def test_normal_integers_take_their_entropy(scale):
    """To within 1 %, table included."""
    values = normal(50_000, scale)
    _, counts = np.unique(values, return_counts=True)
    p = counts / len(values)
    entropy = -(p * np.log2(p)).sum() * len(values) / 8
    assert entropy < len(encode_integers([values])) < 1.01 * entropy + 16


def test_a_few_integers_carry_no_table():
    assert len(encode_integers([np.arange(-8, 8)])) <= 5 + 8 + 8


def test_the_code_is_the_same_everywhere():
    """Files that were written before must stay readable: this one was written by version 0.1."""
    data = encode_integers([np.array([3, 3, 3, 1, 3, 2, 3, 3, 0, 3] * 8), np.array([-5, 9])])
    assert data.tobytes().hex() == GOLDEN
    assert [a.tolist() for a in decode_integers(data, [80, 2])] == [[3, 3, 3, 1, 3, 2, 3, 3, 0, 3] * 8, [-5, 9]]


GOLDEN = '0000030001242424fffbff0e000095fa755b8f3253ab0e11554c0359981747010000'


@pytest.mark.parametrize('cut', [1, 4, 30, 10_000])
def test_truncated_codes_are_refused(cut):
    data = encode_integers([normal(2000, 5)])
    with pytest.raises(ArtifactError, match='damaged'):
        decode_integers(data[:-cut] if cut < len(data) else data[:0], [2000])


def test_damaged_bytes_are_refused_or_give_as_many_integers():
    rng = np.random.default_rng(0)
    data = encode_integers([normal(500, 5), normal(20, 100)])
    refused = 0
    for _ in range(2000):
        damaged = data.copy()
        damaged[rng.integers(len(data))] ^= rng.integers(1, 256)
        try:
            assert [len(a) for a in decode_integers(damaged, [500, 20])] == [500, 20]
        except ArtifactError:
            refused += 1
    assert refused > 500
