import math

import numpy as np
import pytest

from timm_sbs.codec.permutations import (
    FLUSH,
    decode_permutations,
    encode_permutations,
    most_coded_bytes,
)
from timm_sbs.common.errors import ArtifactError


def permutations(rows, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(rows)])


def same(found, expected):
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.mark.parametrize('n', [1, 2, 3, 31, 63, 64, 65, 127, 128, 129, 257, 1000, 4097])
def test_round_trip(n):
    for rows in (1, 3):
        original = permutations(rows, n, seed=n)
        coded = encode_permutations([original])
        assert 0 <= most_coded_bytes([(rows, n)]) - len(coded) <= 9 + len(coded) / 5000
        assert same(decode_permutations(coded, [(rows, n)]), [original])


def test_many_arrays_share_one_run_of_bytes():
    arrays = [permutations(2, 40), np.arange(777)[None], permutations(5, 1), np.arange(65)[None, ::-1]]
    shapes = [rows.shape for rows in arrays]
    coded = encode_permutations(arrays)
    assert len(coded) <= most_coded_bytes(shapes) and same(decode_permutations(coded, shapes), arrays)
    assert decode_permutations(encode_permutations([]), []) == []


@pytest.mark.parametrize('n', [*range(2, 200, 9), 255, 257, 1025, 65_537, 262_144])
def test_size_is_within_2_percent_of_the_information_in_a_permutation(n):
    """Just above powers of two, too. The rounding up to words is not counted."""
    assert 8 * (most_coded_bytes([(1, n)]) - FLUSH) <= 1.0205 * math.lgamma(n + 1) / math.log(2)


def test_the_most_that_a_billion_kernels_take_is_known_without_memory_for_them():
    assert most_coded_bytes([(1, 1 << 30)]) == pytest.approx(math.lgamma((1 << 30) + 1) / math.log(2) / 8, rel=.0205)


def test_a_quarter_of_a_million_kernels():
    original = permutations(1, 262_144)
    assert same(decode_permutations(encode_permutations([original]), [original.shape]), [original])


def test_wrong_lengths_are_refused():
    coded = encode_permutations([permutations(1, 100)])
    for wrong in (coded[:-1], coded[:-4], coded[:9], np.concatenate([coded, coded])):
        with pytest.raises(ArtifactError, match='damaged'):
            decode_permutations(wrong, [(1, 100)])


@pytest.mark.parametrize('n', [5, 300])
def test_random_bytes_give_a_permutation_or_an_error(n):
    rng, refused = np.random.default_rng(0), 0
    for _ in range(200):
        data = rng.integers(0, 256, len(encode_permutations([permutations(1, n)])), dtype=np.uint8)
        try:
            assert np.array_equal(np.sort(decode_permutations(data, [(1, n)])[0][0]), np.arange(n))
        except ArtifactError:
            refused += 1
    assert refused
