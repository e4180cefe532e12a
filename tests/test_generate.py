import dataclasses
import io

import numpy as np
import pytest
import torch

from timm_sbs import generate
from timm_sbs.config import EncodingConfig, OrderingConfig, PredictorConfig, SbsConfig
from timm_sbs.encoding import draw_frequencies
from timm_sbs.errors import ConfigError
from timm_sbs.generate import generate_weights, make_plan, split_weights
from timm_sbs.ordering import fold_of, kernel_at_place, output_sizes, permutation_shapes
from timm_sbs.predictor import Predictor
from timm_sbs.targets import TargetSpec, to_kernels

SPECS = [TargetSpec('a', (4, 3, 3, 3)), TargetSpec('deep', (6, 1, 5, 5)), TargetSpec('b', (2, 5, 3, 3))]


def make(ordering=OrderingConfig(), encoding=EncodingConfig(num_frequencies=6)):
    rng = np.random.default_rng(0)
    config = SbsConfig('base', tuple(s.name for s in SPECS), ordering=ordering, encoding=encoding,
                       predictor=PredictorConfig(8, 3))
    permutations = [
        tuple(np.stack([rng.permutation(n) for _ in range(r)]) for r, n in permutation_shapes(spec, ordering))
        for spec in SPECS]
    torch.manual_seed(0)
    plan = make_plan(config, SPECS, permutations, draw_frequencies(encoding, config.num_coordinates))
    return plan, Predictor(config.feature_width, output_sizes(SPECS, ordering), config.predictor), permutations


@pytest.mark.parametrize('ordering', [
    OrderingConfig(), OrderingConfig('filter', 'grid'), OrderingConfig('none', 'grid'),
    OrderingConfig(max_places=5), OrderingConfig(max_places=1), OrderingConfig('axis', 'grid', max_places=4)])
def test_each_kernel_is_what_the_predictor_says_at_its_place(ordering):
    plan, predictor, permutations = make(ordering)
    weights = generate_weights(predictor, plan)
    assert list(weights) == ['a', 'deep', 'b']
    for spec, permutation in zip(SPECS, permutations):
        group = next(g for g in plan.groups if spec in g.specs)
        index = group.specs.index(spec)
        assert group.fold == fold_of(spec, ordering)
        start, places = sum(group.places[:index]), group.places[index]
        outputs = predictor(plan.features(group), group.output_size)[start:start + places]
        # Folded, the path (or the rows, one after the other) is cut into parts of equal length, which lie side by side.
        parts = outputs.view(places, group.fold, spec.token_size).transpose(0, 1).flatten(0, 1)[:spec.num_kernels]
        kernels = to_kernels(weights[spec.name], spec)
        torch.testing.assert_close(kernels[kernel_at_place(permutation, spec, ordering)], parts)


def test_small_layers_are_not_folded():
    plan, predictor, _ = make(OrderingConfig(max_places=10))
    assert [(g.fold, [s.name for s in g.specs]) for g in plan.groups] == [(1, ['b']), (4, ['a']), (1, ['deep'])]
    assert sorted(predictor.heads) == ['25', '36', '9']
    assert [g.num_places for g in plan.groups] == [10, 3, 6]
    plan, predictor, _ = make(OrderingConfig('axis', 'grid', max_places=2))  # a row is never cut
    assert [(g.fold, [s.name for s in g.specs]) for g in plan.groups] == [(1, ['b']), (4, ['a']), (4, ['deep'])]


def test_gaps_of_a_fold_are_zeros_in_place_order():
    plan, _, _ = make(OrderingConfig(max_places=5))
    group = plan.groups[0]
    rows = group.in_place_order(torch.ones(len(group.place_of_kernel), 9))
    assert rows.shape == (3 + 3, 36) and rows.sum() == 9 * (12 + 10)


@pytest.mark.parametrize('portion', [1, 5, 1000])
def test_portions_do_not_change_the_result(monkeypatch, portion):
    plan, predictor, _ = make(OrderingConfig(max_places=5))
    whole = generate_weights(predictor, plan)
    monkeypatch.setattr(generate, 'PORTION', portion)
    for name, weight in generate_weights(predictor, plan).items():
        torch.testing.assert_close(weight, whole[name])


def test_blocks_do_not_change_the_result(monkeypatch):
    plan, predictor, _ = make()
    whole = generate_weights(predictor, plan)
    monkeypatch.setattr(generate, 'BLOCK', 5)
    for name, weight in generate_weights(predictor, plan).items():
        torch.testing.assert_close(weight, whole[name])


def test_rounding_of_float32_is_far_below_the_weights():
    """The stated tolerance: what another device or library may differ by."""
    plan, predictor, _ = make()
    weights = generate_weights(predictor, plan)
    exact = predictor.double()
    for group in plan.groups:
        turns = group.coordinates @ plan.frequencies.double().T
        angles = 2 * torch.pi * turns
        kernels = exact(torch.cat([angles.sin(), angles.cos()], dim=1), group.token_size)
        for name, weight in split_weights(kernels, group.specs, group.place_of_kernel).items():
            torch.testing.assert_close(weights[name].double(), weight, atol=1e-5, rtol=0)


def test_each_weight_has_memory_of_its_own():
    """timm copies state dicts, and a copy of a view copies all that it is a view of."""
    plan, predictor, _ = make()
    for weight in generate_weights(predictor, plan).values():
        assert weight.untyped_storage().nbytes() == 4 * weight.numel() and weight.is_contiguous()


def test_gradients_reach_the_predictor_through_the_weights():
    plan, predictor, _ = make()
    group = plan.groups[0]
    weights = split_weights(predictor(plan.features(group), 9), group.specs, group.place_of_kernel)
    weights['b'].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in predictor.trunk.parameters())
    assert predictor.heads['25'].weight.grad is None


def test_frequencies_that_do_not_fit_are_refused():
    plan, _, permutations = make()
    config = dataclasses.replace(plan.config, encoding=EncodingConfig(num_frequencies=7))
    with pytest.raises(ConfigError, match=r'\[7, 2\].*\[6, 2\]'):
        make_plan(config, SPECS, permutations, plan.frequencies)


def test_the_bar_waits_two_seconds_and_counts_all_places(monkeypatch):
    bars = []

    class Bar(generate.tqdm):
        def __init__(self, **kwargs):
            super().__init__(**{**kwargs, 'disable': False, 'file': io.StringIO()})
            bars.append((self, kwargs))

    monkeypatch.setattr(generate, 'tqdm', Bar)
    plan, predictor, _ = make()
    generate_weights(predictor, plan)
    (bar, kwargs), = bars
    assert kwargs['delay'] == 2 and kwargs['disable'] is None  # quiet where there is no terminal
    assert bar.n == bar.total == sum(group.num_places for group in plan.groups)
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
