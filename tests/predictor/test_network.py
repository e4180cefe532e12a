"""The perceptron: how many parameters it has, and how wide a number of them makes it."""
import dataclasses

import pytest
import torch

from timm_sbs.common.config import PredictorConfig
from timm_sbs.common.errors import ArtifactError, ConfigError
from timm_sbs.predictor.network import Predictor, check_parameters, num_predictor_parameters, predictor_for_budget


@pytest.mark.parametrize('linear_layers, token_sizes', [(2, [9]), (3, [1, 9, 49]), (5, [])])
def test_count_without_building_is_right(linear_layers, token_sizes):
    config = PredictorConfig(17, linear_layers, extra=5)
    predictor = Predictor(20, token_sizes, config)
    assert sum(p.numel() for p in predictor.parameters()) == num_predictor_parameters(20, token_sizes, config)
    assert 'output_scale' not in dict(predictor.named_parameters())


@pytest.mark.parametrize('budget, linear_layers, token_sizes', [
    (500, 2, [9]), (500, 8, [8, 9]), (53_944, 5, [9]), (1_000_000, 3, [8, 9, 25, 49]), (10_000_000, 8, [9])])
def test_a_budget_is_met_within_a_per_cent_and_never_exceeded(budget, linear_layers, token_sizes):
    features = 12 if budget == 500 else 128
    config = predictor_for_budget(budget, features, token_sizes, PredictorConfig(1, linear_layers, 'sine'))
    assert (config.linear_layers, config.activation) == (linear_layers, 'sine')
    size = num_predictor_parameters(features, token_sizes, config)
    assert size <= budget and (budget == 500 or size >= 0.99 * budget)
    wider = dataclasses.replace(config, extra=config.extra + 1)
    assert num_predictor_parameters(features, token_sizes, wider) > budget


def test_too_small_a_budget_names_the_smallest_predictor():
    with pytest.raises(ConfigError, match='100 parameters are too few.*smallest predictor has 153'):
        predictor_for_budget(100, 128, [9], PredictorConfig())


@pytest.mark.parametrize('activation, function', [
    ('gelu', torch.nn.functional.gelu), ('relu', torch.relu), ('sine', torch.sin)])
def test_activation_is_the_named_one(activation, function):
    predictor, x = Predictor(3, [2], PredictorConfig(4, 2, activation)), torch.randn(6, 3)
    torch.testing.assert_close(predictor(x, 2), predictor.heads['2'](function(predictor.trunk[0](x))))


def test_a_predictor_takes_at_least_an_eighth_of_a_bit_for_each_parameter():
    check_parameters(640, {'ordering': torch.zeros(6, dtype=torch.uint8), 'predictor': torch.zeros(1)})
    with pytest.raises(ArtifactError, match='641 parameters, but .* 10 bytes'):
        check_parameters(641, {'ordering': torch.zeros(6, dtype=torch.uint8), 'predictor': torch.zeros(1)})
