import pytest
import timm
import torch

from timm_sbs.common import devices
from timm_sbs.training.design.sizing import design
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.run import statistics_sample
from timm_sbs.training.run.statistics_sample import (
    empty_statistics,
    look_operations,
    product_rate,
    some_uses,
    step_operations,
)


@pytest.fixture(scope='module')
def plan(resnet20):
    specs = design(resnet20).specs
    return specs, find_uses(resnet20, specs, torch.zeros(1, 3, 32, 32))


def test_small_statistics_are_all_there(plan):
    _, uses = plan
    assert some_uses(uses) == uses


def test_of_large_ones_some_stand_for_all(plan, resnet20, monkeypatch):
    specs, uses = plan
    monkeypatch.setattr(statistics_sample, 'SAMPLE_BYTES', sum(use.bytes for use in uses.values()) // 2)
    some = some_uses(uses)
    assert 0 < sum(use.bytes for use in some.values()) <= statistics_sample.SAMPLE_BYTES and len(some) < len(uses)
    for operations in (look_operations, step_operations):
        assert 0 < operations(resnet20, some) < operations(resnet20, uses)
    statistics = empty_statistics(resnet20, some, torch.device('cpu'))
    divergence = ExpectedDivergence(specs, resnet20.state_dict(), uses, statistics, 1e-3)
    assert set(divergence.without_statistics) == set(uses) - set(some)
    assert divergence.total(resnet20.state_dict()) == 0.
    monkeypatch.setattr(statistics_sample, 'SAMPLE_BYTES', 0)
    assert len(some_uses(uses)) == 1


def test_no_more_than_64_mb_of_resnet50():
    with torch.no_grad():
        model = timm.create_model('resnet50').requires_grad_(False).eval()
    uses = find_uses(model, design(model).specs, torch.zeros(1, 3, 64, 64))
    assert sum(use.bytes for use in uses.values()) > 400e6
    assert 30e6 < sum(use.bytes for use in some_uses(uses).values()) <= 64e6


def test_operations_of_a_layer(plan, resnet20):
    """[64, 64, 3, 3] at 8 x 8 positions: of these 2 * 64 * 64 / 576 = 14, and so 16, are looked at."""
    _, uses = plan
    name = 'layer3.2.conv2.weight'
    assert look_operations(resnet20, {name: uses[name]}) == (16 + 1) * 576 ** 2
    assert step_operations(resnet20, {name: uses[name]}) == 64 * 576 ** 2


def test_the_rate_of_products(monkeypatch):
    ticks = iter([0., 9., 10., 12.])
    monkeypatch.setattr(devices, 'now', lambda device: next(ticks))
    assert product_rate(10, torch.device('cpu')) == 100 * statistics_sample.COLUMNS / 2
