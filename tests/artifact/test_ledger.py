from pathlib import Path

import pytest
import safetensors.torch
from conftest import PREDICTORS, ROUNDED

from timm_sbs.artifact.files import read_config
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.artifact.ledger import PARTS, num_bytes, sizes


@pytest.mark.parametrize('name', [PREDICTORS[0], ROUNDED[0]])
def test_the_ledger_of_a_shipped_artifact_is_that_of_its_files(name):
    folder: Path = shipped_folder(name)
    found = sizes(read_config(folder)[0].ledger)
    tensors = safetensors.torch.load_file(folder / 'model.safetensors')
    assert sum(found[part] for part in PARTS) == found['file'] == (folder / 'model.safetensors').stat().st_size
    assert num_bytes(tensors) == found['file'] - found['header']
    for part in ('predictor', 'ordering', 'rounded', 'kept'):
        assert found[part] == num_bytes({key: t for key, t in tensors.items() if key.split('.')[0] == part})
    artifact = load_artifact(folder)
    values = sum(t.numel() for t in artifact.state_dict().values() if t.is_floating_point())
    assert found['original_values'] == values and found['original'] == 4 * values
    assert found['predictor_parameters'] == artifact.generator.num_parameters


def test_what_is_not_recorded_is_zero():
    assert set(sizes({}).values()) == {0} and sizes({'kept': 'many', 'rounded': -3, 'ordering': 7})['file'] == 7
