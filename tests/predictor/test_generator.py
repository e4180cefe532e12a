"""The generator: every kernel is what the predictor says at its position, in float32, whatever surrounds it."""
import copy

import numpy as np
import pytest
import torch

from timm_sbs.common.config import EncodingConfig, GeneratorConfig, OrderingConfig, PredictorConfig
from timm_sbs.predictor import generator as generator_module
from timm_sbs.predictor.generator import Generator, relative_error, split_weights
from timm_sbs.predictor.ordering import fold_of, kernel_at_position, permutation_shapes
from timm_sbs.predictor.tokens import WeightSpec, to_kernels

SPECS = [WeightSpec('a', (4, 3, 3, 3)), WeightSpec('deep', (6, 1, 5, 5)), WeightSpec('b', (2, 5, 3, 3))]


def make(ordering=OrderingConfig(), weights=None):
    rng = np.random.default_rng(0)
    permutations = [
        tuple(np.stack([rng.permutation(n) for _ in range(r)]) for r, n in permutation_shapes(spec, ordering))
        for spec in SPECS]
    config = GeneratorConfig(ordering, EncodingConfig(num_frequencies=6), PredictorConfig(8, 3))
    return Generator.fresh(config, SPECS, permutations, 0, weights)


@pytest.mark.parametrize('ordering', [
    OrderingConfig(), OrderingConfig('filter', 'grid'), OrderingConfig(max_positions=5),
    OrderingConfig(max_positions=1), OrderingConfig('axes', 'grid', max_positions=4)])
def test_each_kernel_is_what_the_predictor_says_at_its_position(ordering):
    generator = make(ordering)
    weights = generator()
    assert list(weights) == ['a', 'deep', 'b']
    for spec, permutation in zip(SPECS, generator.permutations):
        group = next(g for g in generator.groups if spec in g.specs)
        index = group.specs.index(spec)
        assert group.fold == fold_of(spec, ordering)
        start, count = sum(group.positions[:index]), group.positions[index]
        outputs = generator.predictor(generator.features(group), group.output_size)[start:start + count]
        # Folded, the path (or the rows, one after the other) is cut into parts of equal length, which lie side by side.
        parts = outputs.view(count, group.fold, spec.token_size).transpose(0, 1).flatten(0, 1)[:spec.num_kernels]
        kernels = to_kernels(weights[spec.name], spec)
        torch.testing.assert_close(kernels[kernel_at_position(permutation, spec, ordering)], parts)


def test_small_layers_are_not_folded_and_gaps_of_folded_ones_hold_zeros():
    generator = make(OrderingConfig(max_positions=10))
    assert [(g.fold, [s.name for s in g.specs]) for g in generator.groups] == [(1, ['b']), (4, ['a']), (1, ['deep'])]
    assert sorted(generator.predictor.heads) == ['25', '36', '9']
    assert [g.num_positions for g in generator.groups] == [10, 3, 6]
    generator = make(OrderingConfig('axes', 'grid', max_positions=2))  # a row is never cut
    assert [(g.fold, [s.name for s in g.specs]) for g in generator.groups] == [(1, ['b']), (4, ['a']), (4, ['deep'])]
    group = make(OrderingConfig(max_positions=5)).groups[0]
    rows = group.in_position_order({spec.name: torch.ones(spec.shape) for spec in group.specs})
    assert rows.shape == (3 + 3, 36) and rows.sum() == 9 * (12 + 10)


def test_blocks_do_not_change_the_result(monkeypatch):
    generator = make(OrderingConfig(max_positions=5))
    whole = generator()
    monkeypatch.setattr(generator_module, 'BLOCK', 2)
    for weight, values in generator().items():
        torch.testing.assert_close(values, whole[weight])


def test_precisions_that_the_caller_has_set_change_nothing_and_float32_is_exact_enough():
    """Another device or library may differ by the stated tolerance, 1e-5."""
    generator = make()
    weights, exact = generator(), copy.deepcopy(generator.predictor).double()
    try:
        torch.set_float32_matmul_precision('medium')
        with torch.autocast('cpu', torch.bfloat16):
            assert all(torch.equal(weight, weights[name]) for name, weight in generator().items())
    finally:
        torch.set_float32_matmul_precision('highest')
    for group in generator.groups:
        angles = 2 * torch.pi * group.coordinates @ generator.frequencies.double().T
        kernels = exact(torch.cat([angles.sin(), angles.cos()], dim=1), group.token_size)
        for name, weight in split_weights(kernels, group.specs, group.position_of_kernel, generator.scales).items():
            torch.testing.assert_close(weights[name].double(), weight, atol=1e-5, rtol=0)


def test_weights_do_not_share_storage():
    """timm copies state dicts, and a copy of a view copies all that it is a view of."""
    for weight in make()().values():
        assert weight.untyped_storage().nbytes() == 4 * weight.numel() and weight.is_contiguous()


def test_the_relative_error_is_the_mean_over_values_of_each_weights_own():
    originals = {'a': torch.randn(10, 9), 'b': 1e3 * torch.randn(30, 9), 'zero': torch.zeros(10, 9)}
    weights = {'a': originals['a'] * 1.1, 'b': originals['b'] * 0.8, 'zero': torch.zeros(10, 9)}
    expected = (10 * 0.1 ** 2 + 30 * 0.2 ** 2) / 50
    assert relative_error(weights, originals) == pytest.approx(expected, rel=1e-4)
    scaled = [{**tensors, 'a': tensors['a'] * 1e-18} for tensors in (weights, originals)]
    assert relative_error(*scaled) == pytest.approx(expected, rel=1e-4)
    assert relative_error({'zero': torch.full((10, 9), 1e-9)}, originals) == 1
    assert relative_error(originals, originals) == relative_error({}, originals) == 0


@pytest.mark.parametrize('scale', [0, 1e-30, 30])
def test_a_layer_is_generated_in_its_own_scale(scale):
    weights = make()()
    expected = make(weights=weights)()
    found = make(weights={**weights, 'a': weights['a'] * scale})()
    torch.testing.assert_close(found['a'], expected['a'] * scale, rtol=1e-5, atol=0)
    assert torch.equal(found['b'], expected['b'])
