"""Features of kernels: the same ones, kept or computed anew."""
import pytest
import torch
from conftest import started

from timm_sbs.training.trainable import features
from timm_sbs.training.trainable.features import kernel_features


@pytest.mark.parametrize('limit', [0, 256_000_000])
def test_features_are_those_of_the_generator_and_kept_where_they_are_small(small_model, monkeypatch, limit):
    generator = started(small_model).generator
    monkeypatch.setattr(features, 'KEPT_BYTES', limit)
    found, = kernel_features(generator)
    assert found.kept == bool(limit)
    for rows in (torch.tensor([5, 8191, 0, 77]), slice(100, 164)):
        assert torch.equal(found(rows), generator.features(generator.groups[0])[rows])
