"""A folder that somebody has sent, with more in it than an artifact: nothing in it is an order, and nothing that it
says is more than text."""
import os
import shutil
import traceback

import pytest
import timm
import torch
from conftest import ROUNDED, SHIPPED
from mutations import CONTROL, edit, put
from stranger import SECRET, surroundings

import timm_sbs
from timm_sbs.artifact import artifact as artifacts
from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.cli.main import main
from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.models.create import create_generated


@pytest.fixture()
def received(tmp_path):
    """Beside files of the user."""
    return shutil.copytree(shipped_folder(SHIPPED), surroundings(tmp_path), dirs_exist_ok=True)


def changed(folder, path, value, sealed=True):
    edit(folder, lambda root: put(root, path, value), sealed)


@pytest.mark.parametrize('name', ['.sbs_saved', '.config.json', '.model.safetensors', 'LICENSE.d', '.cache'])
def test_links_beside_the_files_are_left_alone(received, tmp_path, name):
    (received / name).symlink_to('../thesis')
    artifact = timm_sbs.load(received)
    for _ in range(2):
        artifact.with_results({'top1': 50.}).save(received)
    assert [path.name for path in (tmp_path / 'thesis').iterdir()] == ['chapter.txt']
    assert os.readlink(received / name) == '../thesis' and timm_sbs.load(received).results == {'top1': 50.}


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'LICENSE'])
def test_files_that_are_links_are_not_read(received, tmp_path, name):
    (received / name).unlink(missing_ok=True)
    (received / name).symlink_to('../secret')
    for use in (lambda: timm_sbs.load(received), lambda: timm.create_model(
            'sbs', pretrained=True, pretrained_cfg_overlay={'file': str(received / 'config.json')})):
        with pytest.raises(SbsError, match=f'{name}. is a link out of its folder') as error:
            use()
        assert SECRET not in str(error.value)
    assert main(['export', str(received), str(tmp_path / 'x.safetensors')]) == 2


def test_an_artifact_replaces_links_and_not_what_they_lead_to(received, tmp_path):
    artifact = timm_sbs.load(received)
    for name in ('config.json', 'model.safetensors'):
        (received / name).unlink()
        (received / name).symlink_to('../secret')
    (received / 'LICENSE').symlink_to('../secret')
    artifact.save(received)
    assert (tmp_path / 'secret').read_text() == SECRET and not (received / 'LICENSE').exists()
    assert not (received / 'config.json').is_symlink() and timm_sbs.load(received).base.name == artifact.base.name


@pytest.mark.parametrize('linked', ['README.md', 'LICENSE', 'model.safetensors', 'config.json'])
def test_a_push_sends_what_was_read_and_no_other_file(received, monkeypatch, linked):
    sent = []
    monkeypatch.setattr(artifacts, 'upload', lambda contents, *_: sent.append(contents))
    artifact = None if linked in ('LICENSE', 'model.safetensors') else timm_sbs.load(received)
    (received / linked).unlink(missing_ok=True)
    (received / linked).symlink_to('../secret')
    if artifact is None:
        with pytest.raises(SbsError, match='link out of its folder'):
            timm_sbs.load(received).push_to_hub('user/name')
        assert not sent
        return
    artifact.push_to_hub('user/name', token='hf_x')  # it is in memory, whatever the folder has become since
    assert set(sent[0]) == {'config.json', 'model.safetensors', 'README.md'}
    assert not any(SECRET.encode() in content for content in sent[0].values())


@pytest.mark.parametrize('name', [SHIPPED, ROUNDED[0]])
def test_one_description_says_what_is_built(tmp_path, name):
    folder = shutil.copytree(shipped_folder(name), tmp_path / 'received')
    changed(folder, ('model_args',), {'global_pool': 'max'})
    models = timm_sbs.load(folder).create_model(), *(
        timm.create_model(f'local-dir:{folder}', pretrained=pretrained) for pretrained in (True, False))
    assert {model.global_pool.pool_type for model in models} == {'max'}
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(models[0].eval()(image), models[1].eval()(image))
    changed(folder, ('sbs', 'base_args'), {'global_pool': 'avg'})
    with pytest.raises(ConfigError, match="unknown field 'base_args'"):
        timm_sbs.load(folder)


def test_what_timm_passes_on_is_what_the_file_says(received):
    with pytest.raises(ConfigError, match=r"model_args .* were \{'depth': 9\}, but now .* with \{\}"):
        create_generated('sbs', None, True, pretrained_cfg_overlay={'file': str(received)},
                         pretrained_model_args={'depth': 9}, depth=9)


@pytest.mark.parametrize('path, value', [
    (('sbs', 'encoding', 'bandwidth'), 2.0), (('sbs', 'encoding', 'seed'), 7),
    (('sbs', 'predictor', 'activation'), 'relu'), (('model_args',), {'global_pool': 'max'}),
    (('pretrained_cfg', 'classifier'), 'conv1'),
    (('pretrained_cfg', 'input_size'), [3, 64, 64]), (('pretrained_cfg', 'fixed_input_size'), True)])
def test_whoever_edits_the_structure_is_told(received, path, value):
    changed(received, path, value, sealed=False)
    for use in (timm_sbs.load, lambda folder: timm.create_model(f'local-dir:{folder}', pretrained=True)):
        with pytest.raises(SbsError, match='do not belong together, or one is damaged: their digest|cannot build'):
            use(received)


@pytest.mark.parametrize('path, value', [
    (('sbs', 'results', 'top1'), 12.5), (('sbs', 'ledger'), {}), (('pretrained_cfg', 'license'), 'mit'),
    (('pretrained_cfg', 'mean'), [0, 0, 0])])
def test_what_is_told_of_an_artifact_may_be_edited(received, path, value):
    changed(received, path, value, sealed=False)
    timm_sbs.load(received)


@pytest.mark.parametrize('path', [('model_args', CONTROL), ('pretrained_cfg', 'first_conv')])
def test_a_whole_traceback_is_harmless(received, path):
    """Also what it says of errors of others, which Python prints as they are."""
    changed(received, path, CONTROL)
    for use in (timm_sbs.load, lambda folder: timm.create_model(f'local-dir:{folder}')):
        with pytest.raises(SbsError) as error:
            use(received)
        told = ''.join(traceback.format_exception(error.value))
        assert not [c for c in told if not c.isprintable() and c != '\n']


@pytest.mark.parametrize('path, value', [
    (('sbs', 'ordering', 'order_over'), CONTROL), (('sbs', 'base'), 'x' * 3_000_000), (('sbs', CONTROL * 1000), 1),
    (('sbs', 'generated'), [CONTROL * 1000]),
    (('sbs', 'results', 'versions'), dict.fromkeys([f'{i}{CONTROL}' for i in range(9999)], 'x')),
    (('pretrained_cfg', 'license'), 'x' * 4000), (('model_args',), {CONTROL: 'y' * 3_000_000}),
    (('sbs', 'format_version'), '\ud800' * 1000), (('pretrained_cfg', 'num_classes'), CONTROL * 100_000)])
def test_what_is_printed_is_short_and_harmless(received, tmp_path, path, value, capsys):
    changed(received, path, value)
    main(['info', str(received)])
    main(['export', str(received), str(tmp_path / 'x.safetensors')])
    printed = ''.join(capsys.readouterr())
    assert len(printed) < 5000 and not [c for c in printed if not c.isprintable() and c != '\n']
