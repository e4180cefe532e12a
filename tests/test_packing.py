import math

import numpy as np
import pytest

from timm_sbs.errors import OrderingError
from timm_sbs.packing import pack, packed_bits, unpack

SIZES = [1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 63, 100, 256, 1000, 4096, 4097]


def permutations(rows, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(rows)])


@pytest.mark.parametrize('rows', [1, 3])
@pytest.mark.parametrize('n', SIZES)
def test_round_trip(rows, n):
    original = permutations(rows, n, seed=n)
    packed = pack(original)
    assert packed.dtype == np.uint8 and len(packed) == (packed_bits((rows, n)) + 7) // 8
    assert np.array_equal(unpack(packed, (rows, n)), original)


@pytest.mark.parametrize('make', [np.arange, lambda n: np.arange(n)[::-1]])
def test_sorted_orders_too(make):
    original = make(777)[None].copy()
    assert np.array_equal(unpack(pack(original), original.shape), original)


@pytest.mark.parametrize('n, excess', [(256, 1.036), (4096, 1.025), (262_144, 1.016)])
def test_size_is_close_to_the_information_in_a_permutation(n, excess):
    assert packed_bits((1, n)) <= excess * math.lgamma(n + 1) / math.log(2)


def test_what_is_no_permutation_is_not_packed():
    with pytest.raises(OrderingError, match='not a permutation'):
        pack(np.array([[0, 1, 1]]))


def test_wrong_length_is_refused():
    packed = pack(permutations(1, 100))
    with pytest.raises(OrderingError, match='bytes'):
        unpack(packed[:-1], (1, 100))


@pytest.mark.parametrize('n', [5, 40, 300])
def test_random_bytes_give_a_permutation_or_an_error(n):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = rng.integers(0, 256, (packed_bits((1, n)) + 7) // 8, dtype=np.uint8)
        try:
            assert np.array_equal(np.sort(unpack(data, (1, n))[0]), np.arange(n))
        except OrderingError:
            refused += 1
    assert refused
