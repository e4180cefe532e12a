"""Graphs while they are built."""
import doctest

import numpy as np
import pytest
from onnx_graphs import values_of

from timm_sbs.onnx import graph as graph_module
from timm_sbs.onnx import integers
from timm_sbs.onnx.graph import Graph


@pytest.mark.parametrize('module', [graph_module, integers])
def test_examples_run(module):
    result = doctest.testmod(module, extraglobs={'np': np, 'Graph': Graph})
    assert result.attempted and not result.failed


def test_names_are_the_shortest_ones_and_no_two_are_the_same():
    graph = Graph()
    names = [graph.name() for _ in range(5000)]
    lengths = [len(name) for name in names]
    assert len(set(names)) == 5000 and lengths == sorted(lengths) and lengths.count(1) == 62 and lengths[-1] == 3
    assert not {'pixel_values', 'logits'} & set(names)
    assert Graph('_').name().startswith('_')


def test_what_is_equal_is_there_once():
    graph = Graph()
    assert graph.constant([1, 2], np.int8) == graph.constant(np.array([1, 2], np.int8))
    different = [graph.constant(*args) for args in (
        ([1, 2], np.int16), ([1, 2], np.uint8), ([[1, 2]], np.int8), ([513], np.int16), ([0.], np.float32),
        ([-0.], np.float32), (0., np.float32))]
    assert len({graph.constant([1, 2], np.int8), *different}) == len(different) + 1 == len(graph.constants)
    first = graph.add('Transpose', different[2], perm=(0, 1))
    assert first == graph.add('Transpose', different[2], perm=(0, 1))
    assert first != graph.add('Transpose', different[2], perm=(1, 0)) and len(graph.nodes) == 2


def test_constants_have_the_shape_and_type_of_what_is_given():
    graph = Graph()
    given = [np.float32(3), np.arange(6, dtype=np.int16).reshape(2, 3).T, np.zeros((0, 4), np.uint8),
             np.array([True, False]), np.array([1.5, -2], np.float16), np.array([[1e300]])]
    for found, expected in zip(values_of(graph, [graph.constant(array) for array in given]), given):
        assert found.dtype == expected.dtype and found.shape == expected.shape and (found == expected).all()
