"""Forecasts of rounding on a machine on which everything that is timed takes a second."""
import types

import pytest
import torch
from torch import nn

from timm_sbs.common import devices
from timm_sbs.training.losses.weight_uses import Use
from timm_sbs.training.run import rounding_forecast
from timm_sbs.training.run.rounding_forecast import rounding_seconds
from timm_sbs.training.steps.rounding_slope import HALVINGS, SAMPLE
from timm_sbs.training.steps.second_order_rounding import QUICK, THOROUGH

CPU = torch.device('cpu')
MODEL = nn.Sequential(nn.Conv2d(64, 8, 3), nn.Conv2d(8, 16, 3, groups=8), nn.Linear(200, 150))
CONVOLUTION, DEPTHWISE, LINEAR = '0.weight', '1.weight', '2.weight'
USES = {CONVOLUTION: Use(1, 2, 288, 1), DEPTHWISE: Use(8, 1, 9, 1)}


@pytest.fixture(autouse=True)
def ticking(monkeypatch):
    """A quick trial and a thorough one."""
    ticks = iter(range(1000))
    monkeypatch.setattr(devices, 'time', types.SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    monkeypatch.setattr(rounding_forecast, 'TRIALS', {QUICK: 1, THOROUGH: 1})


def forecast(names, uses=USES, seconds_per_operation=0.):
    uses = {name: use for name, use in uses.items() if name in names}
    return rounding_seconds(MODEL, names, uses, seconds_per_operation, CPU)


def counting(values):
    """Bits of all values, and of some for each guess."""
    return 2 * (HALVINGS * min(SAMPLE, values) + values) / SAMPLE


def test_values_without_statistics_take_as_long_as_some_of_them():
    values = 30_000
    assert forecast([LINEAR]) == pytest.approx(2 * values / SAMPLE + counting(values))


@pytest.mark.parametrize('name, columns, timed, values', [
    (CONVOLUTION, 288, 64, 8 * 64 * 9), (DEPTHWISE, 9, 9, 16 * 9)])
def test_columns_take_as_long_as_some_of_them(name, columns, timed, values):
    assert forecast([name]) == pytest.approx(2 * columns / timed + counting(values))


def test_products_take_longer_with_rows_and_columns():
    """[8, 64, 3, 3] in two blocks of 288 inputs."""
    products = 2 * 288 ** 2 * (2.5 * 8 + 288) + 2 * 288 ** 2 * (7 * 8 + 288)
    more = forecast([CONVOLUTION], seconds_per_operation=1e-6) - forecast([CONVOLUTION])
    assert more == pytest.approx(1e-6 * products)


def test_columns_of_few_values_take_less_time(monkeypatch):
    """Of three weights, columns of the narrowest and of the widest are timed."""
    model = nn.Sequential(*(nn.Linear(100, width, bias=False) for width in (10, 30, 50)))
    uses = {name: Use(1, 1, 100, 1) for name, _ in model.named_parameters()}
    widths = []

    def seconds(outputs, use, passes, device):
        widths.append(outputs)
        return 1. + outputs / 10

    monkeypatch.setattr(rounding_forecast, '_column_seconds', seconds)
    monkeypatch.setattr(rounding_forecast, '_bit_seconds', lambda device: 0.)
    found = rounding_seconds(model, list(uses), uses, 0., CPU)
    assert widths == [10, 50, 10, 50]
    assert found == pytest.approx(2 * 100 * (2 + 4 + 6))


def test_some_values_with_statistics_and_some_without():
    assert forecast(list(USES)) < forecast([*USES, LINEAR]) == pytest.approx(forecast(list(USES)) + forecast([LINEAR]))


def test_no_more_is_rounded_than_a_sample(monkeypatch):
    """Whatever the size of a weight."""
    sizes, round_weight = [], rounding_forecast.round_weight
    monkeypatch.setattr(rounding_forecast, 'round_weight', lambda weight, *args, **kwargs: (
        sizes.append(weight.shape), round_weight(weight, *args, **kwargs)))
    forecast([CONVOLUTION, LINEAR])
    assert set(sizes) == {(1, SAMPLE), (8, 2 * 64)}
