import numpy as np
import pytest
import torch

from timm_sbs.common.config import OrderingConfig
from timm_sbs.predictor.ordering import check_permutations
from timm_sbs.predictor.tokens import WeightSpec, to_kernels
from timm_sbs.training.design.paths import find_permutations, path_length, short_path
from timm_sbs.training.design.two_opt import improve


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


def nearest_neighbour_path(points):
    """The greedy path: from the outermost point ever on to the nearest one that is left."""
    last = int(((points - points.mean(0)) ** 2).sum(1).argmax())
    left = np.ones(len(points), dtype=bool)
    path = [last]
    for _ in range(len(points) - 1):
        left[last] = False
        last = int(np.where(left, ((points - points[last]) ** 2).sum(1), np.inf).argmin())
        path.append(last)
    return np.array(path)


def test_real_kernels_become_much_closer_and_beat_the_greedy_path(resnet20):
    spec = WeightSpec('layer2.1.conv1.weight', (32, 32, 3, 3))
    kernels = to_kernels(resnet20.get_parameter(spec.name), spec).double().numpy()
    path = short_path(kernels)
    assert path_length(kernels, path) < 0.97 * path_length(kernels, nearest_neighbour_path(kernels))
    assert path_length(kernels, path) < 0.6 * path_length(kernels, np.arange(len(kernels)))
    assert np.array_equal(path, short_path(kernels))  # deterministic


@pytest.mark.parametrize('n, d', [(4000, 8), (3000, 25), (500, 49), (200, 600), (600, 300), (5000, 2)])
def test_shorter_than_the_greedy_path_in_any_dimension(n, d):
    points = np.random.default_rng(0).standard_normal((n, d))
    path = short_path(points)
    assert np.array_equal(np.sort(path), np.arange(n))
    assert path_length(points, path) < path_length(points, nearest_neighbour_path(points))


def test_no_move_of_the_search_is_left():
    """Neither 2-opt nor Or-opt moves to any point shorten the path: they are made, and made rightly."""
    points = np.random.default_rng(1).standard_normal((60, 2))
    path = improve(points, np.argsort(((points[:, None] - points) ** 2).sum(-1), axis=1)[:, 1:].copy(), np.arange(60))
    length = path_length(points, path)
    for low in range(60):
        for high in range(low + 1, 60):
            turned = np.concatenate([path[:low], path[low:high + 1][::-1], path[high + 1:]])
            assert path_length(points, turned) > length - 1e-5
            if high - low < 3:
                segment, rest = path[low:high + 1], np.delete(path, np.arange(low, high + 1))
                for place in range(len(rest) + 1):
                    for moved in (segment, segment[::-1]):
                        assert path_length(points, np.insert(rest, place, moved)) > length - 1e-5


@pytest.mark.parametrize('order_over, coordinates', [
    ('layer', 'path'), ('layer', 'grid'), ('filter', 'grid'), ('axes', 'grid'), ('nothing', 'grid')])
def test_permutations_of_every_order_over(order_over, coordinates):
    spec, config = WeightSpec('w', (8, 5, 3, 3)), OrderingConfig(order_over, coordinates)
    check_permutations(find_permutations(torch.randn(spec.shape), spec, config), spec, config)


def test_axis_paths_bring_similar_filters_together():
    spec, config = WeightSpec('w', (6, 4, 1, 1)), OrderingConfig('axes', 'grid')
    level = torch.tensor([3., 0., 5., 1., 4., 2.])
    filters = find_permutations(level[:, None, None, None].expand(spec.shape), spec, config)[0][0]
    assert np.array_equal(np.abs(np.diff(level[filters].numpy())), np.ones(5))
