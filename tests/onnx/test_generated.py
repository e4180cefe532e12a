"""Generated weights and orderings: those of the generator."""
import numpy as np
import pytest
from onnx_generators import ORDERINGS, generator_of
from onnx_graphs import nbytes, values_by_reference, values_of

from timm_sbs.onnx import features as features_module
from timm_sbs.onnx.generated import Ordering, generated_weights
from timm_sbs.onnx.graph import Graph
from timm_sbs.onnx.integers import IntegerPool
from timm_sbs.predictor.ordering import stack_kernel_indices


def check(generator, evaluate=values_of):
    """Returns the graph."""
    pool, graph = IntegerPool(), Graph()
    orderings = {name: Ordering(generator, layer, pool) for layer, name in enumerate(generator.names)}
    decoded = pool.decode(graph)
    parameters = {name: graph.constant(tensor.numpy()) for name, tensor in generator.predictor.named_parameters()}
    names = generated_weights(graph, generator, parameters, orderings, decoded)
    assert tuple(names) == generator.names
    expected, scales = generator(), generator.scales
    for (name, weight), found in zip(expected.items(), evaluate(graph, [*names.values()])):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, (weight / scales[name]).numpy(), rtol=1e-5, atol=1e-5, err_msg=name)
    return graph


@pytest.mark.parametrize('kind', ['random_fourier', 'positional'])
@pytest.mark.parametrize('max_positions', [0, 30])
@pytest.mark.parametrize('order_over, coordinates', ORDERINGS)
def test_they_are_those_of_the_generator(order_over, coordinates, max_positions, kind):
    check(generator_of(order_over, coordinates, max_positions, kind))


@pytest.mark.parametrize('activation', ['relu', 'sine'])  # old versions of the other one know no Gelu
@pytest.mark.parametrize('evaluate', [values_of, values_by_reference])
def test_other_activations(activation, evaluate):
    check(generator_of(activation=activation), evaluate)


@pytest.mark.parametrize('most', [1, 9000])
def test_blocks_do_not_matter(most, monkeypatch):
    monkeypatch.setattr(features_module, 'BLOCK_BYTES', most)
    generator = generator_of('filter', 'grid', shapes=[(16, 8, 3, 3), (6, 40, 3, 3), (10, 20, 1, 1)])
    passes = [node for node in check(generator).nodes if node.op_type == 'Gelu']
    assert len(passes) > 2 * len(generator.groups)


@pytest.mark.parametrize('first', [0, 1, 70_000])
@pytest.mark.parametrize('shape', [(16, 8, 3, 3), (1, 1, 3, 3), (1, 300, 3, 3), (300, 1, 3, 3), (300, 40, 3, 3)])
@pytest.mark.parametrize('max_positions', [0, 100])
@pytest.mark.parametrize('order_over, coordinates', ORDERINGS)
def test_orderings_are_rows_of_what_is_generated(order_over, coordinates, max_positions, shape, first):
    generator = generator_of(order_over, coordinates, max_positions, shapes=[shape])
    pool, graph = IntegerPool(), Graph()
    ordering = Ordering(generator, 0, pool)
    rows, = values_of(graph, [ordering.rows(graph, pool.decode(graph), first)])
    expected = stack_kernel_indices(generator.permutations, generator.specs, generator.config.ordering)
    assert rows.dtype == np.int32
    assert (np.broadcast_to(rows, shape[:2]) == expected.reshape(shape[:2]) + first).all()


@pytest.mark.parametrize('order_over, coordinates, most', [
    ('layer', 'path', 64 * 64 * 2), ('filter', 'grid', 64 * 64), ('axes', 'grid', 64 * 5), ('nothing', 'grid', 64 * 5)])
def test_orderings_take_as_few_bytes_as_they_need(order_over, coordinates, most):
    """Two for each kernel of a path, one for each in a filter, some for each filter and channel."""
    generator = generator_of(order_over, coordinates, shapes=[(64, 64, 3, 3)])
    pool, graph = IntegerPool(), Graph()
    ordering = Ordering(generator, 0, pool)
    ordering.rows(graph, pool.decode(graph), 0)
    assert nbytes(graph) <= most + 800
