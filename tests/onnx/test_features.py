"""Features of positions: those of timm_sbs.predictor.encoding, from Range alone."""
import numpy as np
import pytest
from onnx_generators import ORDERINGS, generator_of
from onnx_graphs import nbytes, values_of

from timm_sbs.onnx import features as module
from timm_sbs.onnx.features import features, row_blocks
from timm_sbs.onnx.graph import Graph


def check(generator):
    """Against the rows of each layer as the generator has them. Returns how many blocks there were."""
    groups, first_rows = row_blocks(generator)
    count = 0
    for group, blocks in zip(generator.groups, groups):
        graph = Graph()
        found = values_of(graph, [features(graph, block, generator) for block in blocks])
        assert [len(part) for part in found] == [sum(rows.count for rows in block) for block in blocks]
        found, start, expected = np.concatenate(found), 0, generator.features(group).numpy()
        assert found.dtype == np.float32 and found.shape == expected.shape
        for spec, positions in zip(group.specs, group.positions):
            first = first_rows[spec.name]
            np.testing.assert_allclose(
                found[first:first + positions], expected[start:start + positions], atol=3e-6, err_msg=spec.name)
            start += positions
        count += len(blocks)
    return count


@pytest.mark.parametrize('kind', ['random_fourier', 'positional'])
@pytest.mark.parametrize('max_positions', [0, 30])
@pytest.mark.parametrize('order_over, coordinates', ORDERINGS)
def test_they_are_those_of_the_predictor(order_over, coordinates, max_positions, kind):
    generator = generator_of(order_over, coordinates, max_positions, kind)
    assert (len({group.fold for group in generator.groups}) > 1) == bool(max_positions)
    assert check(generator) == len(generator.groups)


@pytest.mark.parametrize('most', [1, 2000, 9000])
@pytest.mark.parametrize('order_over, coordinates', ORDERINGS[::4])
def test_blocks_of_any_size_have_all_rows(order_over, coordinates, most, monkeypatch):
    monkeypatch.setattr(module, 'BLOCK_BYTES', most)
    generator = generator_of(order_over, coordinates)
    assert check(generator) > len(generator.groups)


def test_a_long_path_is_as_exact_as_a_short_one():
    """It goes through hundreds of turns."""
    check(generator_of(shapes=[(512, 512, 3, 3)]))


def test_no_position_is_stored():
    def stored(shape):
        generator, graph = generator_of(shapes=[shape]), Graph()
        features(graph, row_blocks(generator)[0][0][0], generator)
        return nbytes(graph)

    assert stored((256, 256, 3, 3)) <= stored((16, 8, 3, 3)) + 20


def test_layers_of_one_shape_share_their_positions():
    def stored(count):
        generator, graph = generator_of(shapes=[(16, 8, 3, 3)] * count), Graph()
        features(graph, row_blocks(generator)[0][0][0], generator)
        return nbytes(graph)

    assert stored(20) <= stored(2) + 18 * 8 + 20
