import pytest
import timm
import torch
from conftest import IMAGENET_SHIPPED
from safetensors import safe_open

from timm_sbs import SbsError
from timm_sbs.artifact.export import export_checkpoint
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.cli import main as cli


def test_timm_loads_the_checkpoint_without_this_package(small_folder, tmp_path):
    output = tmp_path / 'resnet20.safetensors'
    base, size, license = export_checkpoint(small_folder, output)
    assert license == 'bsd-2-clause' and base == 'resnet20_cifar10' and size == output.stat().st_size
    model = timm.create_model(base, checkpoint_path=output)
    expected = load_artifact(small_folder).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_the_command_says_how_to_load_it_and_the_licence_goes_with_the_weights(tmp_path, capsys):
    output = tmp_path / 'a.safetensors'
    assert cli.main(['export', IMAGENET_SHIPPED, str(output)]) == 0
    said = capsys.readouterr().out
    assert f"timm.create_model('resnet18', checkpoint_path='{output}')" in said and 'licence: cc-by-nc-4.0' in said
    with safe_open(output, framework='pt') as file:
        assert file.metadata()['license'] == 'cc-by-nc-4.0'
        assert file.metadata()['license_text'] == (shipped_folder(IMAGENET_SHIPPED) / 'LICENSE').read_text()


def test_nothing_is_left_where_writing_fails(small_folder, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SbsError, match='Cannot write'):
        export_checkpoint(small_folder, tmp_path / 'file' / 'a.safetensors')
    with pytest.raises(SbsError, match='must end in .safetensors'):
        export_checkpoint(small_folder, tmp_path / 'a.pth')
    (small_folder / 'model.safetensors').write_bytes(b'')
    with pytest.raises(SbsError):
        export_checkpoint(small_folder, tmp_path / 'a.safetensors')
    assert not list(tmp_path.glob('*.safetensors'))
