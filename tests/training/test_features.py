import pytest
import torch
from conftest import student_of

from timm_sbs.training.steps import features
from timm_sbs.training.steps.features import kernel_features


def test_kept_and_computed_features_are_the_same(resnet20, monkeypatch):
    generator = student_of(resnet20).generator
    kept, = kernel_features(generator)
    monkeypatch.setattr(features, 'KEPT_BYTES', 0)
    computed, = kernel_features(generator)
    rows = torch.tensor([5, 29_695, 0, 77])
    for wanted in (rows, slice(100, 164)):
        assert torch.equal(kept(wanted), computed(wanted))
        assert torch.equal(kept(wanted), generator.features(generator.groups[0])[wanted])


@pytest.mark.parametrize('limit', [0, 256_000_000])
def test_nothing_is_kept_above_the_limit(resnet20, monkeypatch, limit):
    monkeypatch.setattr(features, 'KEPT_BYTES', limit)
    found, = kernel_features(student_of(resnet20).generator)
    assert found.kept == bool(limit)
