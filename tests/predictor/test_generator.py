import copy
import dataclasses
import io

import numpy as np
import pytest
import torch

from timm_sbs.common.config import EncodingConfig, GeneratorConfig, OrderingConfig, PredictorConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.predictor import generator as generator_module
from timm_sbs.predictor.generator import Generator, relative_error, split_weights
from timm_sbs.predictor.network import Predictor
from timm_sbs.predictor.ordering import fold_of, kernel_at_place, permutation_shapes
from timm_sbs.predictor.tokens import WeightSpec, to_kernels

SPECS = [WeightSpec('a', (4, 3, 3, 3)), WeightSpec('deep', (6, 1, 5, 5)), WeightSpec('b', (2, 5, 3, 3))]


def make(ordering=OrderingConfig(), encoding=EncodingConfig(num_frequencies=6)):
    rng = np.random.default_rng(0)
    permutations = [
        tuple(np.stack([rng.permutation(n) for _ in range(r)]) for r, n in permutation_shapes(spec, ordering))
        for spec in SPECS]
    return Generator.fresh(GeneratorConfig(ordering, encoding, PredictorConfig(8, 3)), SPECS, permutations, seed=0)


@pytest.mark.parametrize('ordering', [
    OrderingConfig(), OrderingConfig('filter', 'grid'), OrderingConfig('nothing', 'grid'),
    OrderingConfig(max_places=5), OrderingConfig(max_places=1), OrderingConfig('axes', 'grid', max_places=4)])
def test_each_kernel_is_what_the_predictor_says_at_its_place(ordering):
    generator = make(ordering)
    weights = generator()
    assert list(weights) == ['a', 'deep', 'b']
    for spec, permutation in zip(SPECS, generator.permutations):
        group = next(g for g in generator.groups if spec in g.specs)
        index = group.specs.index(spec)
        assert group.fold == fold_of(spec, ordering)
        start, places = sum(group.places[:index]), group.places[index]
        outputs = generator.predictor(generator.features(group), group.output_size)[start:start + places]
        # Folded, the path (or the rows, one after the other) is cut into parts of equal length, which lie side by side.
        parts = outputs.view(places, group.fold, spec.token_size).transpose(0, 1).flatten(0, 1)[:spec.num_kernels]
        kernels = to_kernels(weights[spec.name], spec)
        torch.testing.assert_close(kernels[kernel_at_place(permutation, spec, ordering)], parts)


def test_products_of_the_caller_in_lower_precision_change_nothing():
    """torch.set_float32_matmul_precision is set by many programs, and allows TF32 on GPUs and bfloat16 on CPUs."""
    config = GeneratorConfig(OrderingConfig(), EncodingConfig(num_frequencies=64), PredictorConfig(128, 3))
    specs = [WeightSpec('a', (64, 64, 3, 3))]
    generator = Generator.fresh(config, specs, [(np.arange(64 * 64)[None],)], seed=0)
    before, exact = torch.get_float32_matmul_precision(), generator()
    try:
        torch.set_float32_matmul_precision('medium')
        for name, weight in generator().items():
            assert torch.equal(weight, exact[name])
    finally:
        torch.set_float32_matmul_precision(before)


def test_small_layers_are_not_folded():
    generator = make(OrderingConfig(max_places=10))
    assert [(g.fold, [s.name for s in g.specs]) for g in generator.groups] == [(1, ['b']), (4, ['a']), (1, ['deep'])]
    assert sorted(generator.predictor.heads) == ['25', '36', '9']
    assert [g.num_places for g in generator.groups] == [10, 3, 6]
    generator = make(OrderingConfig('axes', 'grid', max_places=2))  # a row is never cut
    assert [(g.fold, [s.name for s in g.specs]) for g in generator.groups] == [(1, ['b']), (4, ['a']), (4, ['deep'])]


def test_gaps_of_a_fold_are_zeros_in_place_order():
    generator = make(OrderingConfig(max_places=5))
    group = generator.groups[0]
    rows = group.in_place_order({spec.name: torch.ones(spec.shape) for spec in group.specs})
    assert rows.shape == (3 + 3, 36) and rows.sum() == 9 * (12 + 10)


@pytest.mark.parametrize('portion', [1, 5, 1000])
def test_portions_do_not_change_the_result(monkeypatch, portion):
    generator = make(OrderingConfig(max_places=5))
    whole = generator()
    monkeypatch.setattr(generator_module, 'PORTION', portion)
    for name, weight in generator().items():
        torch.testing.assert_close(weight, whole[name])


def test_blocks_do_not_change_the_result(monkeypatch):
    generator = make()
    whole = generator()
    monkeypatch.setattr(generator_module, 'BLOCK', 5)
    for name, weight in generator().items():
        torch.testing.assert_close(weight, whole[name])


def test_rounding_of_float32_is_far_below_the_weights():
    """The stated tolerance: what another device or library may differ by."""
    generator = make()
    weights = generator()
    exact = copy.deepcopy(generator.predictor).double()
    for group in generator.groups:
        turns = group.coordinates @ generator.frequencies.double().T
        angles = 2 * torch.pi * turns
        kernels = exact(torch.cat([angles.sin(), angles.cos()], dim=1), group.token_size)
        for name, weight in split_weights(kernels, group.specs, group.place_of_kernel, generator.scales).items():
            torch.testing.assert_close(weights[name].double(), weight, atol=1e-5, rtol=0)


def test_each_weight_has_memory_of_its_own():
    """timm copies state dicts, and a copy of a view copies all that it is a view of."""
    generator = make()
    for weight in generator().values():
        assert weight.untyped_storage().nbytes() == 4 * weight.numel() and weight.is_contiguous()


def test_gradients_reach_the_predictor_through_the_weights():
    generator = make()
    group = generator.groups[0]
    kernels = generator.predictor(generator.features(group), 9)
    weights = split_weights(kernels, group.specs, group.place_of_kernel, generator.scales)
    weights['b'].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.predictor.trunk.parameters())
    assert generator.predictor.heads['25'].weight.grad is None


def test_frequencies_that_do_not_fit_are_refused():
    generator = make()
    config = dataclasses.replace(generator.config, encoding=EncodingConfig(num_frequencies=7))
    with pytest.raises(ConfigError, match=r'\[7, 2\].*\[6, 2\]'):
        Generator(config, SPECS, generator.permutations, generator.frequencies, generator.predictor)


def test_another_predictor_changes_the_weights_and_nothing_else():
    generator = make()
    other = copy.deepcopy(generator.predictor)
    with torch.no_grad():
        other.output_scale.mul_(2)
    doubled = generator.with_predictor(other)
    assert doubled.groups is generator.groups and doubled.frequencies is generator.frequencies
    assert list(doubled.state_dict()) == list(generator.state_dict())
    for name, weight in generator().items():
        torch.testing.assert_close(doubled()[name], 2 * weight)


def test_it_is_a_module():
    """Parameters, state and copies are those of any module; frequencies have a place of their own in a file."""
    generator = make()
    assert {name.split('.')[0] for name in generator.state_dict()} == {'predictor'}
    copied = copy.deepcopy(generator)
    copied.load_state_dict({name: tensor * 0 for name, tensor in generator.state_dict().items()})
    assert generator()['a'].abs().sum() > 0 == copied()['a'].abs().sum()


def test_the_bar_waits_two_seconds_and_counts_all_places(monkeypatch):
    bars = []

    class Bar(generator_module.tqdm):
        def __init__(self, **kwargs):
            super().__init__(**{**kwargs, 'disable': False, 'file': io.StringIO()})
            bars.append((self, kwargs))

    monkeypatch.setattr(generator_module, 'tqdm', Bar)
    generator = make()
    generator()
    (bar, kwargs), = bars
    assert kwargs['delay'] == 2 and kwargs['disable'] is None  # quiet where there is no terminal
    assert bar.n == bar.total == sum(group.num_places for group in generator.groups)
    assert bar.fp.getvalue() == ''


@pytest.mark.parametrize('activation', ['gelu', 'relu', 'sine'])
def test_writing_in_place_is_what_forward_returns(activation):
    torch.manual_seed(0)
    predictor = Predictor(6, [9], PredictorConfig(8, 4, activation))
    predictor.output_scale.fill_(0.3)
    features, written = torch.randn(11, 6), torch.empty(11, 9)
    kept = features.clone()
    predictor.write(features, written)
    torch.testing.assert_close(written, predictor(features, 9))
    assert torch.equal(features, kept) and not written.requires_grad


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
    generator, weights = make(), make()()
    weights['a'] = weights['a'] * scale
    scaled = Generator.fresh(generator.config, SPECS, generator.permutations, 0, weights)
    plain = Generator.fresh(generator.config, SPECS, generator.permutations, 0, make()())
    found, expected = scaled(), plain()
    torch.testing.assert_close(found['a'], expected['a'] * scale, rtol=1e-5, atol=0)
    assert torch.equal(found['b'], expected['b'])
