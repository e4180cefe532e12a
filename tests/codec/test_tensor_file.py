import dataclasses

import pytest
import torch
from conftest import fit_quickly

from timm_sbs.artifact.folder import load_artifact, save_artifact
from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import stored_predictor
from timm_sbs.codec.tensor_file import from_tensors, to_tensors
from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.errors import ArtifactError


@pytest.mark.parametrize('order_over', ['layer', 'filter', 'axes', 'nothing'])
def test_a_quantized_artifact_is_read_as_it_was_rounded(resnet20, tmp_path, order_over):
    """Bit by bit: what training measured is what a reader gets."""
    ordering = OrderingConfig(order_over, 'path' if order_over == 'layer' else 'grid')
    artifact = fit_quickly(resnet20, steps=5, bits=4.5, ordering=ordering)
    save_artifact(tmp_path, artifact)
    loaded = load_artifact(tmp_path)
    expected = stored_predictor(artifact.generator.predictor, artifact.storage).state_dict()
    for name, tensor in loaded.generator.predictor.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert list(loaded.kept) == list(artifact.kept)
    kept = stored_kept(artifact.kept, artifact.storage, artifact.base.norm_eps)
    for name, tensor in loaded.kept.items():
        assert torch.equal(tensor, kept[name]), name
        assert tensor.dtype == artifact.kept[name].dtype
    assert torch.equal(loaded.generator.frequencies, artifact.generator.frequencies)
    for found, rows in zip(loaded.generator.permutations, artifact.generator.permutations):
        assert len(found) == len(rows) and all((a == b).all() for a, b in zip(found, rows))


def test_kept_tensors_that_are_no_floats_stay_exact(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, steps=1, bits=5.)
    index = torch.tensor([2 ** 40, -1, 7])
    generator, state = artifact.generator, {**artifact.base.state, 'index': index}
    contents = dataclasses.replace(artifact.contents, kept={**artifact.kept, 'index': index})
    tensors = to_tensors(contents, artifact.config, generator.specs)
    assert torch.equal(tensors['kept.index'], index)
    found = from_tensors(tensors, artifact.config, generator.specs, generator.predictor, state)
    assert torch.equal(found.kept['index'], index)


def test_frequencies_that_bytes_cannot_hold(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, steps=1)
    artifact.generator.frequencies += 0.0001
    with pytest.raises(ArtifactError, match='not multiples of 1/4096'):
        save_artifact(tmp_path / 'x', artifact)
    assert not (tmp_path / 'x').exists()


def test_a_diverged_predictor_is_not_written(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, steps=1, bits=5.)
    with torch.no_grad():
        next(artifact.generator.predictor.parameters()).fill_(float('nan'))
    with pytest.raises(ArtifactError, match='not finite.*Did training diverge'):
        save_artifact(tmp_path, artifact)
    assert not any(tmp_path.iterdir())


def test_what_would_be_read_as_infinite_is_not_written(resnet20, tmp_path):
    """The largest float32, rounded up to the next integer of its tensor, would be."""
    artifact = fit_quickly(resnet20, steps=1, bits=5.)
    largest = torch.full_like(artifact.kept['linear.bias'], 2.)
    largest[0] = torch.finfo(torch.float32).max
    kept = {**artifact.kept, 'linear.bias': largest}
    with pytest.raises(ArtifactError, match="'kept.linear.bias' holds values that are not finite in integers"):
        save_artifact(tmp_path, dataclasses.replace(artifact, kept=kept))
    assert not any(tmp_path.iterdir())


def test_large_variances_are_written_and_read(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, steps=1, bits=5.)
    name = 'bn1.running_var'
    save_artifact(tmp_path, dataclasses.replace(artifact, kept={**artifact.kept, name: artifact.kept[name] + 1e9}))
    assert load_artifact(tmp_path).kept[name].min() > 0.97e9
