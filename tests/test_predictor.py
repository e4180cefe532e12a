import pytest
import torch

from timm_sbs.config import PredictorConfig
from timm_sbs.errors import ConfigError
from timm_sbs.predictor import Predictor, num_predictor_parameters, width_for_budget


@pytest.mark.parametrize('token_sizes', [[9], [9, 25], [1, 9, 49]])
@pytest.mark.parametrize('linear_layers', [2, 3, 5])
def test_count_without_building_is_right(linear_layers, token_sizes):
    config = PredictorConfig(17, linear_layers)
    predictor = Predictor(20, token_sizes, config)
    assert sum(p.numel() for p in predictor.parameters()) == num_predictor_parameters(20, token_sizes, config)
    assert sum(isinstance(m, torch.nn.Linear) for m in predictor.modules()) == linear_layers - 1 + len(token_sizes)


@pytest.mark.parametrize('budget', [500, 5_000, 53_944, 1_000_000])
@pytest.mark.parametrize('linear_layers', [2, 3, 5, 8])
def test_width_uses_the_budget_and_no_more(budget, linear_layers):
    if budget == 500:
        features = 12
    else:
        features = 128
    width = width_for_budget(budget, features, [9], linear_layers)
    assert num_predictor_parameters(features, [9], PredictorConfig(width, linear_layers)) <= budget
    assert num_predictor_parameters(features, [9], PredictorConfig(width + 1, linear_layers)) > budget


def test_too_small_a_budget_names_the_smallest_predictor():
    with pytest.raises(ConfigError, match='A predictor of 100 parameters cannot exist.*smallest has 153'):
        width_for_budget(100, 128, [9], 5)


def test_outputs_are_scaled():
    predictor = Predictor(4, [9], PredictorConfig(8, 2))
    features = torch.randn(5, 4)
    once = predictor(features, 9)
    predictor.output_scale.fill_(3.)
    torch.testing.assert_close(predictor(features, 9), 3 * once)
    assert 'output_scale' not in dict(predictor.named_parameters())


@pytest.mark.parametrize('activation, function', [
    ('gelu', torch.nn.functional.gelu), ('relu', torch.relu), ('sine', torch.sin)])
def test_activation_is_the_named_one(activation, function):
    predictor = Predictor(3, [2], PredictorConfig(4, 2, activation))
    x = torch.randn(6, 3)
    expected = predictor.heads['2'](function(predictor.trunk[0](x)))
    torch.testing.assert_close(predictor(x, 2), expected)
