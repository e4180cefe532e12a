import math
import time

import numpy as np
import pytest

from timm_sbs.errors import OrderingError
from timm_sbs.packing import FLUSH, most_packed_bytes, pack, packed_bits, unpack

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
    packed = pack([original])
    assert packed.dtype == np.uint8
    assert packed_bits([(rows, n)]) / 8 - 1 < len(packed) <= most_packed_bytes([(rows, n)])
    assert same(unpack(packed, [(rows, n)]), [original])


def test_many_arrays_share_one_run_of_bytes():
    arrays = [permutations(2, 40), permutations(1, 300), permutations(5, 1), permutations(1, 65)]
    shapes = [rows.shape for rows in arrays]
    packed = pack(arrays)
    assert len(packed) <= sum(packed_bits([shape]) for shape in shapes) / 8 + FLUSH
    assert same(unpack(packed, shapes), arrays)
    assert len(pack([])) == 0 and unpack(pack([]), []) == []


@pytest.mark.parametrize('make', [np.arange, lambda n: np.arange(n)[::-1]])
def test_sorted_orders_too(make):
    original = make(777)[None].copy()
    assert same(unpack(pack([original]), [original.shape]), [original])


@pytest.mark.parametrize('n', [*range(2, 200), 255, 256, 257, 1000, 1025, 4096, 4100, 65_537, 262_144])
def test_size_is_within_3_percent_of_the_information_in_a_permutation(n):
    """Just above powers of two, too. The rounding up to words is not counted."""
    assert packed_bits([(1, n)]) <= 1.02 * math.lgamma(n + 1) / math.log(2)


def test_a_quarter_of_a_million_kernels_in_under_a_second():
    original = permutations(1, 262_144)
    packed = pack([original])
    assert len(packed) * 8 <= 1.03 * math.lgamma(262_145) / math.log(2)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        found = unpack(packed, [original.shape])
        times.append(time.perf_counter() - started)
    assert same(found, [original])
    assert min(times) < 1


def test_what_is_no_permutation_is_not_packed():
    with pytest.raises(OrderingError, match='not a permutation'):
        pack([np.array([[0, 1, 1]])])


def test_wrong_length_is_refused():
    packed = pack([permutations(1, 100)])
    for wrong in (packed[:-1], packed[:-4], np.concatenate([packed, packed])):
        with pytest.raises(OrderingError, match='packed ordering'):
            unpack(wrong, [(1, 100)])


@pytest.mark.parametrize('n', [5, 40, 300])
def test_random_bytes_give_a_permutation_or_an_error(n):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = rng.integers(0, 256, len(pack([permutations(1, n)])), dtype=np.uint8)
        try:
            assert np.array_equal(np.sort(unpack(data, [(1, n)])[0][0]), np.arange(n))
        except OrderingError:
            refused += 1
    assert refused
