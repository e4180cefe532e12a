import dataclasses

import pytest
import torch
from conftest import fit_quickly

from timm_sbs.artifact import as_stored, load_artifact, save_artifact
from timm_sbs.config import OrderingConfig
from timm_sbs.errors import ArtifactError
from timm_sbs.quantization import rounded_kept


@pytest.mark.parametrize('granularity', ['layer', 'filter', 'axis', 'none'])
def test_a_packed_artifact_is_read_as_it_was_rounded(resnet20, tmp_path, granularity):
    """Bit by bit: what training measured is what a reader gets."""
    ordering = OrderingConfig(granularity, 'path' if granularity == 'layer' else 'grid')
    artifact = fit_quickly(resnet20, steps=5, bits=4.5, ordering=ordering)
    save_artifact(tmp_path, artifact)
    loaded = load_artifact(tmp_path)
    expected = as_stored(artifact.predictor, artifact.config).state_dict()
    for name, tensor in loaded.predictor.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert list(loaded.kept) == list(artifact.kept)
    for name, tensor in loaded.kept.items():
        assert torch.equal(tensor, rounded_kept(name, artifact.kept[name], artifact.config.quantization)), name
        assert tensor.dtype == artifact.kept[name].dtype
    assert torch.equal(loaded.frequencies, artifact.frequencies)
    for found, rows in zip(loaded.permutations, artifact.permutations):
        assert len(found) == len(rows) and all((a == b).all() for a, b in zip(found, rows))


def test_kept_tensors_that_are_no_floats_stay_exact(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, steps=1, bits=5.)
    index = torch.tensor([2 ** 40, -1, 7])
    extended = dataclasses.replace(
        artifact, kept={**artifact.kept, 'index': index}, base_state={**artifact.base_state, 'index': index})
    from timm_sbs.layout import Contents, from_tensors, to_tensors
    contents = Contents(extended.predictor.state_dict(), extended.frequencies, extended.permutations, extended.kept)
    tensors = to_tensors(contents, extended.config, extended.specs)
    assert torch.equal(tensors['kept.index'], index)
    found = from_tensors(tensors, extended.config, extended.specs, extended.predictor, extended.base_state)
    assert torch.equal(found.kept['index'], index)


def test_frequencies_that_bytes_cannot_hold(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, steps=1)
    other = dataclasses.replace(artifact, frequencies=artifact.frequencies + 0.0001)
    with pytest.raises(ArtifactError, match='not multiples of 1/4096'):
        save_artifact(tmp_path / 'x', other)
    assert not (tmp_path / 'x').exists()


def test_a_diverged_predictor_is_not_written(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, steps=1, bits=5.)
    with torch.no_grad():
        next(artifact.predictor.parameters()).fill_(float('nan'))
    with pytest.raises(ArtifactError, match='not finite.*Did training diverge'):
        save_artifact(tmp_path, artifact)
    assert not any(tmp_path.iterdir())
