import pytest
import safetensors.torch
from conftest import PREDICTORS, ROUNDED, file_bytes

import timm_sbs
from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.artifact.ledger import PARTS


@pytest.mark.parametrize('name', [PREDICTORS[0], ROUNDED[0]])
def test_the_ledger_of_a_shipped_artifact_is_that_of_its_files(name):
    artifact, folder = timm_sbs.load(name), shipped_folder(name)
    found = artifact.ledger()
    assert sum(found[part] for part in PARTS) == found['total'] == file_bytes(folder)
    assert found['config.json'] == (folder / 'config.json').stat().st_size
    tensors = safetensors.torch.load_file(folder / 'model.safetensors')
    for part in ('predictor', 'ordering', 'rounded', 'kept'):
        assert found[part] == sum(t.nbytes for key, t in tensors.items() if key.split('.')[0] == part)
    values = sum(t.numel() for t in artifact.state_dict().values() if t.is_floating_point())
    assert found['original_values'] == values and found['original'] == 4 * values
    assert found['predictor_parameters'] == artifact.generator.num_parameters
