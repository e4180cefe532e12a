from pathlib import Path

import pytest
from conftest import SHIPPED, fit_quickly

from timm_sbs.artifact import load_artifact, save_artifact
from timm_sbs.config import OrderingConfig
from timm_sbs.errors import ConfigError
from timm_sbs.models import embedded_folder
from timm_sbs.sizes import artifact_sizes
from timm_sbs.training.fit import design, predictor_parameters


def sizes_and_files(folder):
    artifact = load_artifact(folder)
    sizes = artifact_sizes(artifact.config, artifact.pretrained_cfg, artifact.specs, artifact.base_state)
    return sizes, {path.name: path.stat().st_size for path in Path(folder).iterdir()}


def test_of_the_shipped_predictor():
    sizes, files = sizes_and_files(embedded_folder(SHIPPED))
    assert sizes.total - sizes.config == files['model.safetensors']
    assert sizes.config >= files['config.json']


@pytest.mark.parametrize('settings', [
    dict(storage_dtype='float32'), dict(storage_dtype='bfloat16', linear_layers=3),
    dict(ordering=OrderingConfig('filter', 'grid')), dict(ordering=OrderingConfig('none', 'grid'))])
def test_header_and_tensors_are_exact(resnet20, tmp_path, settings):
    save_artifact(tmp_path, fit_quickly(resnet20, steps=1, **settings))
    sizes, files = sizes_and_files(tmp_path)
    assert sizes.total - sizes.config == files['model.safetensors']


@pytest.mark.parametrize('budget', [100_000, 171_000, 300_000])
def test_a_budget_of_bytes_is_used_and_kept(resnet20, tmp_path, budget):
    config, _, specs = design(resnet20, max_bytes=budget)
    artifact = fit_quickly(resnet20, steps=1, max_bytes=budget)
    assert predictor_parameters(artifact.config, artifact.specs) == predictor_parameters(config, specs)
    save_artifact(tmp_path, artifact)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 0.95 * budget < size <= budget


def test_too_few_bytes(resnet20):
    with pytest.raises(ConfigError, match=r'50,000 bytes are too few: ordering \(37,640\), kept tensors \(15,336\)'):
        design(resnet20, max_bytes=50_000)
    with pytest.raises(ConfigError, match='which saves nothing. Ask for fewer bytes'):
        design(resnet20, max_bytes=2_000_000)
