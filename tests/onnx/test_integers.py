"""Integers of any kind, decoded by runtimes, in few bytes."""
import zlib

import numpy as np
import pytest
from conftest import FUZZ, few_or_all
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_graphs import model_of, nbytes, values_by_reference, values_of

from timm_sbs.onnx.graph import Graph
from timm_sbs.onnx.integers import IntegerPool

LARGEST = 32767  # that artifacts have


@st.composite
def tensors(draw):
    """Integers as artifacts have them: of any size, mostly small ones, some of them with a few large ones."""
    shape = draw(st.sampled_from([(), (0,), (1,), (3, 0), (5,), (7, 3), (64, 3, 3), (211,), (40, 30)]))
    kind = draw(st.sampled_from(['normal', 'equal', 'uniform', 'spikes', 'runs']))
    scale = draw(st.sampled_from([.3, 1, 3, 40, 5000]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    size = int(np.prod(shape))
    if kind == 'equal':
        found = np.full(size, draw(st.sampled_from([0, 1, -8, 9, 127, -128, 128, LARGEST, -LARGEST])))
    elif kind == 'uniform':
        found = rng.integers(-int(scale) - 1, int(scale) + 2, size)
    else:
        found = (rng.standard_normal(size) * scale).round()
        if kind == 'spikes':
            found[rng.random(size) < .02] = LARGEST
        if kind == 'runs':
            found = np.sort(found)
    return np.clip(found, -LARGEST, LARGEST).astype(np.int32).reshape(shape)


def decoded(pool, given, evaluate):
    graph = Graph()
    names = pool.decode(graph)
    assert len(names) == len(given)
    return graph, evaluate(graph, names)


def check(given, evaluate):
    pool = IntegerPool()
    assert [pool.add(tensor) for tensor in given] == list(range(len(given)))
    graph, found = decoded(pool, given, evaluate)
    for tensor, values in zip(given, found):
        assert values.dtype in (np.int8, np.int32) and (values == tensor.reshape(-1)).all()
        assert values.dtype == np.int32 or not tensor.size or np.abs(tensor).max() <= 128
    raw = sum(tensor.size * (2 if tensor.size and np.abs(tensor).max() > 127 else 1) for tensor in given)
    assert len(zlib.compress(model_of(graph, []).SerializeToString())) <= raw + 100 * len(given) + 300


def check_random(count, most, values):
    @settings(FUZZ, max_examples=count)
    @given(st.lists(tensors(), min_size=1, max_size=most))
    def run(given):
        check(given, values)

    run()


@few_or_all(25, 500)
def test_any_integers_come_back_in_no_more_bytes_than_they_have(count):
    check_random(count, 7, values_of)


@few_or_all(5, 100)
def test_the_reference_implementation_decodes_them_too(count):
    check_random(count, 3, values_by_reference)


@pytest.mark.parametrize('size', [4999, 5000, 5001, 5003, 5007])
@pytest.mark.parametrize('scale, ratio', [(.25, .35), (.7, .6), (2., .9)])
def test_small_integers_take_a_part_of_a_byte(size, scale, ratio):
    """Whatever the size, also one that is no multiple of the tuples' length."""
    rng = np.random.default_rng(0)
    given = [(rng.standard_normal(size) * scale).round().astype(int) for _ in range(2)]
    check(given, values_of)
    pool = IntegerPool()
    for tensor in given:
        pool.add(tensor)
    graph, _ = decoded(pool, given, values_of)
    assert nbytes(graph) < ratio * 2 * size


def test_tensors_with_similar_integers_share_a_table():
    rng = np.random.default_rng(0)

    def like(scale):
        return (rng.standard_normal(4000) * scale).round().astype(int)

    def total(*given):
        """In one pool, and with a pool for each."""
        together, apart = IntegerPool(), [IntegerPool() for _ in given]
        for tensor, own in zip(given, apart):
            together.add(tensor)
            own.add(tensor)
        graph, found = decoded(together, given, values_of)
        assert all((values == tensor).all() for values, tensor in zip(found, given))
        return nbytes(graph), sum(nbytes(decoded(own, given[:1], values_of)[0]) for own in apart)

    shared, alone = total(*(like(.6) for _ in range(6)))
    assert shared < .9 * alone
    mixed, alone = total(like(.3), like(40), like(.3), like(40), np.array([LARGEST] * 3), np.array([], int))
    assert mixed < alone + 100


def test_nothing_is_decoded_into_nothing():
    graph = Graph()
    assert IntegerPool().decode(graph) == [] and not graph.nodes
