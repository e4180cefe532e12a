"""Short paths through points, equal and nearly equal ones too, and through the kernels of a layer."""
import numpy as np
import pytest
import torch
from torch import nn

from timm_sbs.common.config import OrderingConfig
from timm_sbs.predictor.ordering import check_permutations
from timm_sbs.predictor.selection import select_weights
from timm_sbs.predictor.tokens import WeightSpec, to_kernels
from timm_sbs.training.design import orderings
from timm_sbs.training.design.orderings import find_orderings, find_permutations, short_path
from timm_sbs.training.design.two_opt import improve


def path_length(points, path):
    """Sum of the distances between successive points."""
    return np.linalg.norm(np.diff(points[path], axis=0), axis=1).sum()


@pytest.mark.parametrize('n', [1, 2, 3, 200])
def test_a_path_visits_every_point_once(n):
    points = np.random.default_rng(n).standard_normal((n, 9))
    assert np.array_equal(np.sort(short_path(points)), np.arange(n))


def test_a_line_is_followed_from_end_to_end():
    line = np.random.default_rng(0).permutation(300)
    path = short_path(np.stack([line, 2 * line], axis=1))
    assert np.array_equal(np.abs(np.diff(line[path])), np.ones(299))


def points_of_searches(monkeypatch):
    """How many points each search by moves sees."""
    seen = []

    def counted(points, neighbours, path, search=orderings.improve):
        seen.append(len(points))
        return search(points, neighbours, path)

    monkeypatch.setattr(orderings, 'improve', counted)
    return seen


def with_equals(distinct, share_of_zeros=0.):
    """Each point 30 times, then zeros, all shuffled."""
    rng = np.random.default_rng(0)
    every = np.repeat(distinct, 30, axis=0)
    zeros = np.zeros((int(len(every) * share_of_zeros / (1 - share_of_zeros)), distinct.shape[1]))
    return rng.permutation(np.concatenate([every, zeros]))


DISTINCT = np.random.default_rng(0).standard_normal((70, 9)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize('zeros', [0., .95])
def test_equal_points_follow_each_other_by_index_and_are_one_of_the_search(monkeypatch, zeros):
    points = with_equals(DISTINCT, zeros)
    seen = points_of_searches(monkeypatch)
    path = short_path(points)
    distinct = len(DISTINCT) + (zeros > 0)
    assert seen == [distinct]
    assert np.array_equal(np.sort(path), np.arange(len(points)))
    steps = np.linalg.norm(np.diff(points[path], axis=0), axis=1)
    assert np.count_nonzero(steps) == distinct - 1
    assert np.all(np.diff(path)[steps == 0] > 0)
    only_once = points[np.sort(np.unique(points, axis=0, return_index=True)[1])]
    assert path_length(points, path) == pytest.approx(path_length(only_once, short_path(only_once)))


def test_nearly_equal_points_are_one_of_the_search(monkeypatch):
    """Noise of a millionth puts some points beyond the edge of their cell: hence a few more than distinct ones."""
    points = with_equals(DISTINCT, 0.5)
    length = path_length(points, short_path(points))
    nearly = points + 1e-6 * points.std() * np.random.default_rng(1).standard_normal(points.shape)
    seen = points_of_searches(monkeypatch)
    path = short_path(nearly)
    assert len(seen) == 1 and 70 <= seen[0] < 2 * 71
    assert np.array_equal(np.sort(path), np.arange(len(points)))
    assert path_length(nearly, path) < 1.03 * length


@pytest.mark.parametrize('value, shape', [(0., (40, 9)), (-0.25, (1, 9)), (-0.25, (3, 600))])
def test_a_layer_of_one_value_is_left_in_its_order(value, shape):
    assert np.array_equal(short_path(np.full(shape, value)), np.arange(shape[0]))


def test_both_zeros_are_equal_and_points_that_differ_are_searched_as_they_are(monkeypatch):
    points = np.repeat(DISTINCT, 2, axis=0)
    points[::2, 3], points[1::2, 3] = 0., -0.
    seen = points_of_searches(monkeypatch)
    short_path(points)
    short_path(np.random.default_rng(0).standard_normal((500, 9)))
    assert seen == [70, 500]


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


@pytest.mark.parametrize('n, d', [(2000, 8), (500, 9), (200, 600), (3000, 2)])
def test_shorter_than_the_greedy_path_in_any_dimension(n, d):
    points = np.random.default_rng(0).standard_normal((n, d))
    path = short_path(points)
    assert np.array_equal(np.sort(path), np.arange(n))
    assert path_length(points, path) < path_length(points, nearest_neighbour_path(points))


def test_no_move_of_the_search_is_left():
    """After a few times no turn of any part makes the path shorter: turns are found, and made rightly."""
    points, path = np.random.default_rng(1).standard_normal((60, 2)), np.arange(60)
    neighbours = np.argsort(((points[:, None] - points) ** 2).sum(-1), axis=1)[:, 1:].copy()
    for _ in range(4):
        path = improve(points, neighbours, path)
    for low in range(60):
        for high in range(low + 1, 60):
            turned = np.concatenate([path[:low], path[low:high + 1][::-1], path[high + 1:]])
            assert path_length(points, turned) > path_length(points, path) - 1e-5


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


def test_they_are_those_of_each_layer_on_any_number_of_threads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 40, 3), nn.Conv2d(40, 8, 3), nn.Conv2d(8, 32, 5))
    specs, ordering, threads = select_weights(model), OrderingConfig(), torch.get_num_threads()
    expected = [find_permutations(model.get_parameter(spec.name), spec, ordering) for spec in specs]
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = find_orderings(model, specs, ordering)
            assert all(np.array_equal(a[0], b[0]) for a, b in zip(found, expected)) and len(found) == 3
    finally:
        torch.set_num_threads(threads)
