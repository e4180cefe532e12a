import pytest
from conftest import ROUNDED, SHIPPED

from timm_sbs.artifact.card import artifact_card
from timm_sbs.artifact.describe import describe_artifact
from timm_sbs.artifact.files import artifact_bytes
from timm_sbs.artifact.find import find_folder, shipped_folder
from timm_sbs.common.errors import ArtifactError


def test_every_way_to_name_an_artifact(small_folder):
    for name in (str(small_folder), f'local-dir:{small_folder}', str(small_folder / 'model.safetensors')):
        assert find_folder(name) == small_folder
    assert find_folder(SHIPPED) == shipped_folder(SHIPPED)
    with pytest.raises(ArtifactError, match=f'neither a folder.*Named ones: .*{SHIPPED}'):
        find_folder('sbs_nothing')


@pytest.mark.parametrize('name', [SHIPPED, ROUNDED[0]])
def test_the_ledger_adds_up_to_what_ls_says(name):
    told = describe_artifact(shipped_folder(name))
    rows = [line for line in told.splitlines() if ' bytes ' in line]
    counts = [int(row.split(' bytes')[0].split()[-1].replace(',', '')) for row in rows]
    assert counts[-1] == artifact_bytes(shipped_folder(name)) == sum(counts[:-1])
    assert 'bsd-2-clause' in told and 'top-1' in told and 'resnet20_cifar10' in told


def test_nothing_tells_of_a_predictor_where_there_is_none():
    told, card = describe_artifact(shipped_folder(ROUNDED[0])), artifact_card(shipped_folder(ROUNDED[0]), 'user/any')
    assert 'rounded    all weights\n' in told and 'integers, stored tensors of 6 bits' in told
    assert '- rounded: all weights\n' in card
    for word in ('predictor', 'generat', 'ordering', 'widths', 'SBS'):
        assert word not in told and word not in card, word


def test_files_of_two_artifacts(small_folder):
    path = small_folder / 'model.safetensors'
    path.write_bytes(path.read_bytes() + b' ')
    with pytest.raises(ArtifactError, match='do not belong together'):
        describe_artifact(small_folder)
    path.unlink()
    assert 'both files' in describe_artifact(small_folder)  # config.json alone says it


def test_agreement_is_told_where_accuracy_is_not_known(small_artifact, tmp_path):
    small_artifact.with_results({'holdout_agreement': 97.25}).save(tmp_path)
    assert 'agreement  97.25 % on held-out training images' in describe_artifact(tmp_path)
