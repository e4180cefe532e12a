import pytest
from conftest import SHIPPED

from timm_sbs.artifact.describe import describe_artifact
from timm_sbs.artifact.find import find_folder, shipped_folder
from timm_sbs.cli.main import main
from timm_sbs.common.errors import ArtifactError


def test_every_way_to_name_an_artifact(small_folder):
    for name in (str(small_folder), f'local-dir:{small_folder}', str(small_folder / 'model.safetensors')):
        assert find_folder(name) == small_folder
    assert find_folder(SHIPPED) == shipped_folder(SHIPPED)
    with pytest.raises(ArtifactError, match=f'neither a folder.*Named ones: .*{SHIPPED}'):
        find_folder('sbs_nothing')


def test_the_ledger_adds_up_to_what_ls_says(capsys):
    assert main(['info', SHIPPED]) == 0
    printed = capsys.readouterr().out
    total = sum(path.stat().st_size for path in shipped_folder(SHIPPED).iterdir())
    rows = [line for line in printed.splitlines() if ' bytes ' in line]
    counts = [int(row.split(' bytes')[0].split()[-1].replace(',', '')) for row in rows]
    assert counts[-1] == total == sum(counts[:-1])
    assert 'bsd-2-clause' in printed and 'top-1' in printed and 'resnet20_cifar10' in printed


def test_files_of_two_artifacts(small_folder):
    path = small_folder / 'model.safetensors'
    path.write_bytes(path.read_bytes() + b' ')
    with pytest.raises(ArtifactError, match='do not belong together'):
        describe_artifact(small_folder)
    path.unlink()
    assert 'both files' in describe_artifact(small_folder)  # config.json alone says it


def test_quantize_prints_the_new_ledger(small_folder, tmp_path, capsys):
    assert main(['quantize', str(small_folder), str(tmp_path / 'out'), '--bits', '6']) == 0
    printed = capsys.readouterr().out
    assert 'kept tensors of 8 bits' in printed and 'of their squared size' in printed
    assert main(['quantize', str(small_folder), str(tmp_path / 'out'), '--bytes', '1k']) == 2
    assert 'too few' in capsys.readouterr().err


def test_a_copy_that_is_not_smaller_is_told(tmp_path, capsys):
    assert main(['quantize', SHIPPED, str(tmp_path / 'more'), '--bits', '8']) == 0
    assert 'the copy is not smaller: it has ' in capsys.readouterr().out
    assert main(['quantize', SHIPPED, str(tmp_path / 'less'), '--bits', '4']) == 0
    assert 'not smaller' not in capsys.readouterr().out
