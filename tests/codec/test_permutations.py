import math

import numpy as np
import pytest

from timm_sbs.codec.permutations import (
    FLUSH,
    coded_bits,
    decode_permutations,
    encode_permutations,
    most_coded_bytes,
    usual_coded_bytes,
)
from timm_sbs.common.errors import OrderingError

SIZES = [1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129, 256, 257, 1000, 4096, 4097]


def permutations(rows, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(rows)])


def same(found, expected):
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.mark.parametrize('rows', [1, 3])
@pytest.mark.parametrize('n', SIZES)
def test_round_trip(rows, n):
    original = permutations(rows, n, seed=n)
    coded = encode_permutations([original])
    assert coded.dtype == np.uint8
    assert coded_bits([(rows, n)]) / 8 - 1 < len(coded) <= most_coded_bytes([(rows, n)])
    assert abs(len(coded) - usual_coded_bytes([(rows, n)])) <= 5
    assert same(decode_permutations(coded, [(rows, n)]), [original])


def test_many_arrays_share_one_run_of_bytes():
    arrays = [permutations(2, 40), permutations(1, 300), permutations(5, 1), permutations(1, 65)]
    shapes = [rows.shape for rows in arrays]
    coded = encode_permutations(arrays)
    assert len(coded) <= sum(coded_bits([shape]) for shape in shapes) / 8 + FLUSH
    assert same(decode_permutations(coded, shapes), arrays)
    assert len(encode_permutations([])) == 0 and decode_permutations(encode_permutations([]), []) == []


@pytest.mark.parametrize('make', [np.arange, lambda n: np.arange(n)[::-1]])
def test_sorted_orders_too(make):
    original = make(777)[None].copy()
    assert same(decode_permutations(encode_permutations([original]), [original.shape]), [original])


@pytest.mark.parametrize('n', [*range(2, 200), 255, 256, 257, 1000, 1025, 4096, 4100, 65_537, 262_144])
def test_size_is_within_3_percent_of_the_information_in_a_permutation(n):
    """Just above powers of two, too. The rounding up to words is not counted."""
    assert coded_bits([(1, n)]) <= 1.02 * math.lgamma(n + 1) / math.log(2)


def test_a_quarter_of_a_million_kernels():
    original = permutations(1, 262_144)
    coded = encode_permutations([original])
    assert len(coded) * 8 <= 1.03 * math.lgamma(262_145) / math.log(2)
    assert same(decode_permutations(coded, [original.shape]), [original])


def test_what_is_no_permutation_is_not_coded():
    with pytest.raises(OrderingError, match='not a permutation'):
        encode_permutations([np.array([[0, 1, 1]])])


def test_wrong_length_is_refused():
    coded = encode_permutations([permutations(1, 100)])
    for wrong in (coded[:-1], coded[:-4], np.concatenate([coded, coded])):
        with pytest.raises(OrderingError, match='coded ordering'):
            decode_permutations(wrong, [(1, 100)])


@pytest.mark.parametrize('n', [5, 40, 300])
def test_random_bytes_give_a_permutation_or_an_error(n):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = rng.integers(0, 256, len(encode_permutations([permutations(1, n)])), dtype=np.uint8)
        try:
            assert np.array_equal(np.sort(decode_permutations(data, [(1, n)])[0][0]), np.arange(n))
        except OrderingError:
            refused += 1
    assert refused
