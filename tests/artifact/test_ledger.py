import json
from pathlib import Path

import pytest
import safetensors.torch
from conftest import ALL_SHIPPED, fit_quickly

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import artifact_ledger, load_artifact, read_config, save_artifact
from timm_sbs.artifact.ledger import num_bytes
from timm_sbs.common.config import OrderingConfig


def files_of(folder):
    return {path.name: path.stat().st_size for path in Path(folder).iterdir()}


@pytest.mark.parametrize('name', ALL_SHIPPED)
def test_the_ledger_in_a_shipped_predictor_is_that_of_its_files(name):
    folder = shipped_folder(name)
    sizes, files = read_config(folder)[0].ledger, files_of(folder)
    parts = sum(sizes[part] for part in ('predictor', 'ordering', 'kept', 'frequencies', 'header'))
    assert parts == sizes['file'] == files['model.safetensors']
    tensors = safetensors.torch.load_file(folder / 'model.safetensors')
    assert num_bytes(tensors) == sizes['file'] - sizes['header']
    assert num_bytes({'': tensors['ordering']}) == sizes['ordering']


@pytest.mark.parametrize('settings', [
    dict(storage_dtype='float32'), dict(storage_dtype='bfloat16', linear_layers=3), dict(bits=5.),
    dict(ordering=OrderingConfig('filter', 'grid')), dict(ordering=OrderingConfig('nothing', 'grid'), bits=4)])
def test_sizes_are_known_before_writing(resnet20, tmp_path, settings):
    artifact = fit_quickly(resnet20, steps=1, **settings)
    expected = artifact_ledger(artifact)
    config = save_artifact(tmp_path, artifact)
    files = files_of(tmp_path)
    assert expected['file'] == files['model.safetensors'] and expected['config'] == files['config.json']
    assert expected['total'] == sum(files.values())
    assert config.ledger == {k: v for k, v in expected.items() if k not in ('config', 'total')}
    assert json.loads((tmp_path / 'config.json').read_text())['sbs']['ledger'] == config.ledger


def test_what_the_ledger_compares_with(resnet20, tmp_path):
    sizes = save_artifact(tmp_path, fit_quickly(resnet20, steps=1)).ledger
    values = sum(t.numel() for t in resnet20.state_dict().values() if t.is_floating_point())
    assert sizes['original_values'] == values and sizes['original'] == 4 * values
    assert sizes['percent'] == pytest.approx(100 * sizes['file'] / sizes['original'], abs=0.01)
    assert sizes['bits_per_weight'] == pytest.approx(8 * sizes['file'] / values, abs=0.001)
    assert sizes['predictor_parameters'] == sum(
        p.numel() for p in load_artifact(tmp_path).generator.predictor.parameters())


def test_rounding_makes_kept_tensors_and_headers_small(resnet20, tmp_path):
    floats = save_artifact(tmp_path, fit_quickly(resnet20, steps=1)).ledger
    quantized = save_artifact(tmp_path, fit_quickly(resnet20, steps=1, bits=5)).ledger
    assert quantized['kept'] < floats['kept'] / 3.5 and quantized['header'] < 400 < floats['header']
