"""Kernel orderings of all kinds: kernels at them, and the way back."""
import numpy as np
import pytest
import torch

from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.predictor.ordering import (
    axis_sizes,
    check_permutations,
    kernel_at_position,
    permutation_shapes,
    stack_kernel_indices,
)
from timm_sbs.predictor.tokens import WeightSpec

CONFIGS = [
    OrderingConfig('layer', 'path'), OrderingConfig('layer', 'grid'), OrderingConfig('filter', 'grid'),
    OrderingConfig('axes', 'grid'), OrderingConfig('nothing', 'grid')]
SPECS = [WeightSpec('a', (4, 3, 3, 3)), WeightSpec('b', (5, 1, 3, 3)), WeightSpec('c', (2, 6, 3, 3))]


def random_permutations(spec, config, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        np.stack([rng.permutation(n) for _ in range(rows)]) for rows, n in permutation_shapes(spec, config))


def test_filter_order_over_stays_inside_filters():
    spec, config = SPECS[0], OrderingConfig('filter', 'grid')
    at = kernel_at_position(random_permutations(spec, config), spec, config).reshape(4, 3)
    assert (at // 3 == np.arange(4)[:, None]).all()


def test_axis_order_over_moves_whole_rows_and_columns():
    spec, config = SPECS[0], OrderingConfig('axes', 'grid')
    rows, columns = np.array([[2, 0, 3, 1]]), np.array([[1, 2, 0]])
    at = kernel_at_position((rows, columns), spec, config).reshape(4, 3)
    assert np.array_equal(at, np.arange(12).reshape(4, 3)[rows[0]][:, columns[0]])


@pytest.mark.parametrize('config', CONFIGS)
def test_stacked_indices_put_positions_back_into_kernel_order(config):
    permutations = [random_permutations(spec, config, i) for i, spec in enumerate(SPECS)]
    kernels = torch.arange(sum(spec.num_kernels for spec in SPECS))
    in_position_order = torch.cat([
        part[torch.from_numpy(kernel_at_position(p, spec, config))]
        for part, p, spec in zip(kernels.split([s.num_kernels for s in SPECS]), permutations, SPECS)])
    index = torch.from_numpy(stack_kernel_indices(permutations, SPECS, config))
    assert torch.equal(in_position_order[index], kernels)


def test_positions_run_along_the_path_or_over_the_grid():
    assert axis_sizes(SPECS[0], OrderingConfig('layer', 'path')) == (12,)
    assert axis_sizes(SPECS[0], OrderingConfig('nothing', 'grid')) == (4, 3)


def test_wrong_permutations_are_refused():
    spec, config = SPECS[0], OrderingConfig()
    check_permutations((np.arange(12)[None],), spec, config)
    for rows, says in ((np.zeros((1, 12), np.int64), "'a' is not a permutation"), (np.arange(11)[None], 'shapes')):
        with pytest.raises(ArtifactError, match=says):
            check_permutations((rows,), spec, config)
