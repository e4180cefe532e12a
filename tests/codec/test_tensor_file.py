import dataclasses

import pytest
import torch
from conftest import equal, fit_quickly

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.codec.tensor_file import Contents, from_tensors, to_tensors
from timm_sbs.common.errors import ArtifactError


@pytest.fixture(scope='module')
def quantized(small_model):
    return fit_quickly(small_model, steps=1, bits=4.5)


@pytest.mark.parametrize('order_over', ['layer', 'filter', 'axes', 'nothing'])
def test_a_quantized_artifact_is_read_as_it_was_rounded(small_model, tmp_path, order_over):
    """Bit by bit: what training measured is what a reader gets."""
    artifact = fit_quickly(small_model, steps=2, bits=4.5, order_over=order_over,
                           coordinates='path' if order_over == 'layer' else 'grid')
    artifact.save(tmp_path)
    loaded = load_artifact(tmp_path)
    assert list(loaded.kept) == list(artifact.kept)
    assert equal(loaded.state_dict(), artifact.as_stored().state_dict())


def test_stored_tensors_that_are_not_floats_stay_exact(quantized):
    index, generator = torch.tensor([2 ** 40, -1, 7]), quantized.generator
    contents = Contents(generator.predictor.state_dict(), generator.frequencies, generator.permutations,
                        {**quantized.kept, 'index': index}, quantized.rounded, quantized.steps)
    tensors = to_tensors(contents, quantized.config, generator.specs)
    assert torch.equal(tensors['kept.index'], index)
    state = {**quantized.base.state, 'index': index}
    found = from_tensors(tensors, quantized.config, generator.specs, generator.predictor, state)
    assert torch.equal(found.kept['index'], index)


def test_frequencies_that_bytes_cannot_hold(small_model, tmp_path):
    artifact = fit_quickly(small_model, steps=1)
    artifact.generator.frequencies += 0.0001
    with pytest.raises(ArtifactError, match='not multiples of 1/4096'):
        artifact.save(tmp_path / 'x')
    assert not (tmp_path / 'x').exists()


def test_what_would_be_read_as_infinite_is_not_written(quantized, tmp_path):
    """The largest float32, rounded up to the next integer of its tensor, would be."""
    largest = torch.full_like(quantized.kept['linear.bias'], 2.)
    largest[0] = torch.finfo(torch.float32).max
    kept = {**quantized.kept, 'linear.bias': largest}
    with pytest.raises(ArtifactError, match=r"'kept.linear.bias' holds values that are not finite or beyond 1e\+38"):
        dataclasses.replace(quantized, kept=kept).save(tmp_path)
    assert not any(tmp_path.iterdir())


def test_large_variances_are_written_and_read(quantized, tmp_path):
    name = 'bn1.running_var'
    dataclasses.replace(quantized, kept={**quantized.kept, name: quantized.kept[name] + 1e9}).save(tmp_path)
    assert load_artifact(tmp_path).kept[name].min() > 0.97e9
