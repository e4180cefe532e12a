import numpy as np
import pytest
import torch

from timm_sbs.config import OrderingConfig
from timm_sbs.ordering import check_permutations
from timm_sbs.paths import _nearest_neighbour_path, find_permutations, path_length, short_path
from timm_sbs.targets import ConvSpec, to_kernels


@pytest.mark.parametrize('n', [1, 2, 3, 4, 13, 200])
def test_a_path_visits_every_point_once(n):
    points = np.random.default_rng(n).standard_normal((n, 9))
    assert np.array_equal(np.sort(short_path(points)), np.arange(n))


def test_a_line_is_followed_from_end_to_end():
    line = np.random.default_rng(0).permutation(300)
    path = short_path(np.stack([line, 2 * line], axis=1))
    assert np.array_equal(np.abs(np.diff(line[path])), np.ones(299))


def test_equal_points_do_no_harm():
    points = np.repeat(np.random.default_rng(0).standard_normal((7, 4)), 30, axis=0)
    path = short_path(points)
    assert np.array_equal(np.sort(path), np.arange(210))
    steps = np.linalg.norm(np.diff(points[path], axis=0), axis=1)
    assert np.count_nonzero(steps) == 6  # all equal points one after the other


def test_real_kernels_become_much_closer_and_beat_the_greedy_path(resnet20):
    spec = ConvSpec('layer2.1.conv1.weight', (32, 32, 3, 3))
    kernels = to_kernels(resnet20.get_parameter(spec.name), spec).double().numpy()
    path = short_path(kernels)
    greedy = _nearest_neighbour_path(kernels, int(((kernels - kernels.mean(0)) ** 2).sum(1).argmax()))
    assert path_length(kernels, path) < 0.97 * path_length(kernels, greedy)
    assert path_length(kernels, path) < 0.6 * path_length(kernels, np.arange(len(kernels)))
    assert np.array_equal(path, short_path(kernels))  # deterministic


@pytest.mark.parametrize('granularity, coordinates', [
    ('layer', 'path'), ('layer', 'grid'), ('filter', 'grid'), ('axis', 'grid'), ('none', 'grid')])
def test_permutations_of_every_granularity(granularity, coordinates):
    spec, config = ConvSpec('w', (8, 5, 3, 3)), OrderingConfig(granularity, coordinates)
    check_permutations(find_permutations(torch.randn(spec.shape), spec, config), spec, config)


def test_axis_paths_bring_similar_filters_together():
    spec, config = ConvSpec('w', (6, 4, 1, 1)), OrderingConfig('axis', 'grid')
    level = torch.tensor([3., 0., 5., 1., 4., 2.])
    filters = find_permutations(level[:, None, None, None].expand(spec.shape), spec, config)[0][0]
    assert np.array_equal(np.abs(np.diff(level[filters].numpy())), np.ones(5))
