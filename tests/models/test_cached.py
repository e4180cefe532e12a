"""Weights that were generated once are read from huggingface_hub's folder of assets."""
import shutil

import pytest
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


def test_a_folder_is_read_anew_and_no_cache_is_needed(cache, tmp_path):
    folder = shutil.copytree(shipped_folder(NAME), tmp_path / 'artifact')
    weights(f'local-dir:{folder}')
    (cache / 'timm_sbs').write_text('')  # where the folder would be
    assert torch.equal(weights(), weights(f'local-dir:{folder}'))
    data = bytearray((folder / 'model.safetensors').read_bytes())
    data[-1] ^= 1
    (folder / 'model.safetensors').write_bytes(data)
    with pytest.raises(ArtifactError, match='checksum'):
        weights(f'local-dir:{folder}')
