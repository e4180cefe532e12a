import pytest
import timm
import torch

from timm_sbs.training.design.forecast import random_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.run import statistics_sample
from timm_sbs.training.run.statistics_sample import empty_statistics, look_ratio, some_uses, step_ratio


@pytest.fixture(scope='module')
def plan(resnet20):
    chosen = design(resnet20)
    artifact = start_artifact(
        chosen, random_orderings(chosen.specs, chosen.generator.ordering), resnet20, seed=0)
    return artifact.generator, find_uses(resnet20, chosen.specs, torch.zeros(1, 3, 32, 32))


def test_small_statistics_are_all_there(plan):
    generator, uses = plan
    some = some_uses(uses)
    assert list(some) == list(uses)
    assert look_ratio(generator.specs, uses, some) == step_ratio(generator, uses, some) == 1.


def test_of_large_ones_some_stand_for_all(plan, resnet20, monkeypatch):
    generator, uses = plan
    monkeypatch.setattr(statistics_sample, 'SAMPLE_BYTES', sum(use.bytes for use in uses.values()) // 2)
    some = some_uses(uses)
    assert 0 < sum(use.bytes for use in some.values()) <= statistics_sample.SAMPLE_BYTES and len(some) < len(uses)
    assert 1 < look_ratio(generator.specs, uses, some) < 2 and 1 < step_ratio(generator, uses, some) < 2
    statistics = empty_statistics(generator.specs, some, torch.device('cpu'))
    divergence = ExpectedDivergence(generator.specs, resnet20.state_dict(), uses, statistics, 1e-3)
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
