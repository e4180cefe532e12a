"""Weights that were generated once are read from huggingface_hub's folder of assets."""
import shutil

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub.utils import _cache_assets

from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.common.errors import ArtifactError
from timm_sbs.models import create

NAME = 'sbs_resnet20_cifar10_20pct'


@pytest.fixture()
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache_assets, 'HF_ASSETS_CACHE', str(tmp_path))
    return tmp_path


def weights(name=NAME):
    model = timm.create_model(name, pretrained=True)
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def test_a_second_load_reads_what_the_first_has_written(cache, monkeypatch):
    first = weights()
    (file,) = cache.rglob('*.safetensors')
    with monkeypatch.context() as patch:
        patch.setattr(create, 'load_artifact', lambda *_: pytest.fail('the artifact was decoded again'))
        assert torch.equal(weights(), first)
        assert timm.create_model(NAME, pretrained=True, num_classes=3).num_classes == 3
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(weights(), first) and torch.equal(weights(), first)
    weights('sbs_resnet20_cifar10_30kb')
    assert len([*cache.rglob('*.safetensors')]) == 2


@pytest.mark.parametrize('change', [
    lambda state: {name: tensor + 1 for name, tensor in state.items()},
    lambda state: {name: tensor.half() for name, tensor in state.items()},
    lambda state: {name: tensor * float('nan') for name, tensor in state.items()},
    lambda state: dict(list(state.items())[1:]), lambda state: {}])
def test_a_file_that_is_not_what_its_name_says_is_made_anew(cache, change):
    expected = weights()
    (file,) = cache.rglob('*.safetensors')
    good = file.read_bytes()
    file.write_bytes(safetensors.torch.save(change(safetensors.torch.load(good))))
    assert torch.equal(weights(), expected) and file.read_bytes() == good
    other = file.with_name(f"{file.stem.partition('-')[0]}-{'0' * 64}.safetensors")
    file.rename(other)
    other.write_bytes(b'x')
    assert torch.equal(weights(), expected) and [*cache.rglob('*.safetensors')] == [file]


def test_a_link_or_a_folder_in_the_cache_is_replaced_or_left(cache, tmp_path):
    expected = weights()
    (file,) = cache.rglob('*.safetensors')
    (tmp_path / 'thesis').write_text('years of work')
    file.unlink()
    file.symlink_to(tmp_path / 'thesis')
    assert torch.equal(weights(), expected) and not file.is_symlink()
    assert (tmp_path / 'thesis').read_text() == 'years of work'
    file.unlink()
    file.mkdir()
    assert torch.equal(weights(), expected)


def test_no_cached_weights_for_files_that_are_damaged(cache, tmp_path, monkeypatch):
    """Although they were right when the weights were written."""
    folder = shutil.copytree(shipped_folder(NAME), tmp_path / 'snapshot')
    monkeypatch.setattr(create, 'shipped_folder', lambda name: folder)
    weights()
    (folder / 'model.safetensors').write_bytes((folder / 'model.safetensors').read_bytes()[:-1] + b'x')
    with pytest.raises(ArtifactError, match='digest'):
        weights()


def test_a_folder_is_read_anew_and_no_cache_is_needed(cache, tmp_path):
    folder = shutil.copytree(shipped_folder(NAME), tmp_path / 'artifact')
    weights(f'local-dir:{folder}')
    (cache / 'timm_sbs').write_text('')  # where the folder would be
    assert torch.equal(weights(), weights(f'local-dir:{folder}'))
    data = bytearray((folder / 'model.safetensors').read_bytes())
    data[-1] ^= 1
    (folder / 'model.safetensors').write_bytes(data)
    with pytest.raises(ArtifactError, match='digest'):
        weights(f'local-dir:{folder}')
