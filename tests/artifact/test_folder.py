import copy
import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from timm_sbs.artifact.files import MAX_CONFIG_BYTES
from timm_sbs.artifact.folder import load_artifact, read_config, record_results, save_artifact
from timm_sbs.common.config import StorageConfig
from timm_sbs.common.errors import ArtifactError, ConfigError, SbsError
from timm_sbs.predictor.ordering import check_permutations


def edit_config(folder, change):
    path = folder / 'config.json'
    root = json.loads(path.read_text())
    change(root)
    path.write_text(json.dumps(root))


def rewrite_tensors(folder, change):
    """Change tensors as somebody would who writes a file of his own: with a checksum that is right."""
    import hashlib
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    data = save(tensors)
    (folder / 'model.safetensors').write_bytes(data)
    edit_config(folder, lambda root: root['sbs'].update(weights_sha256=hashlib.sha256(data).hexdigest()))


def test_round_trip_gives_the_same_weights(small_artifact, small_folder):
    loaded = load_artifact(small_folder)
    expected = small_artifact.state_dict()
    state = loaded.state_dict()
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        # the predictor is stored in float16
        torch.testing.assert_close(state[name], tensor, atol=2e-3 * float(tensor.abs().max()), rtol=0)
    assert loaded.config.results == small_artifact.config.results
    assert loaded.base.pretrained_cfg == json.loads(json.dumps(small_artifact.base.pretrained_cfg))
    for permutations, spec in zip(loaded.generator.permutations, loaded.generator.specs):
        check_permutations(permutations, spec, loaded.config.ordering)


def test_float32_storage_is_exact(small_artifact, tmp_path):
    save_artifact(tmp_path / 'a', dataclasses.replace(small_artifact, storage=StorageConfig('float32')))
    expected = small_artifact.state_dict()
    assert all(torch.equal(t, expected[k]) for k, t in load_artifact(tmp_path / 'a').state_dict().items())


def test_stored_tensors_are_what_is_used(small_folder):
    """Frequencies are read, not drawn again from the seed; and so are all others."""
    before = load_artifact(small_folder).state_dict()
    rewrite_tensors(small_folder, lambda t: t['frequencies'].neg_())
    after = load_artifact(small_folder).state_dict()
    assert not torch.allclose(before['layer1.0.conv1.weight'], after['layer1.0.conv1.weight'], rtol=0.05)
    rewrite_tensors(small_folder, lambda t: t['kept.linear.bias'].add_(1))
    assert torch.equal(load_artifact(small_folder).state_dict()['linear.bias'], before['linear.bias'] + 1)


def test_saving_twice_gives_the_same_files_and_leaves_no_others(small_artifact, small_folder):
    first = {p.name: p.read_bytes() for p in small_folder.iterdir()}
    save_artifact(small_folder, small_artifact)
    assert {p.name: p.read_bytes() for p in small_folder.iterdir()} == first
    assert set(first) == {'config.json', 'model.safetensors'}


def test_results_can_be_added_without_touching_tensors(small_folder):
    before = (small_folder / 'model.safetensors').read_bytes()
    old = read_config(small_folder)[0].results
    record_results(small_folder, {'top1': 12.5})
    assert (small_folder / 'model.safetensors').read_bytes() == before
    assert read_config(small_folder)[0].results == {**old, 'top1': 12.5}


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_missing_files(small_folder, name):
    (small_folder / name).unlink()
    with pytest.raises(ArtifactError, match=f'has no {name}'):
        load_artifact(small_folder)


@pytest.mark.parametrize('keep', [0, 4, 100, 20_000, -1])
def test_truncated_tensors(small_folder, keep):
    path = small_folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match='cannot be read.*truncated'):
        load_artifact(small_folder)


def test_a_flipped_bit_is_found(small_folder):
    path = small_folder / 'model.safetensors'
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match='checksum'):
        load_artifact(small_folder)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"architecture": "resnet18"}', '{"sbs": 3}', '[' * 100_000, '\xff'])
def test_config_that_is_none(small_folder, text):
    (small_folder / 'config.json').write_text(text, encoding='latin-1')
    with pytest.raises(ArtifactError, match='config.json'):
        read_config(small_folder)


def test_huge_config_is_not_read(small_folder):
    (small_folder / 'config.json').write_text(' ' * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ArtifactError, match='larger than'):
        read_config(small_folder)


def test_newer_format_says_upgrade(small_folder):
    edit_config(small_folder, lambda root: root['sbs'].update(format_version=99, something_new=1))
    with pytest.raises(ArtifactError, match='format 99.*pip install --upgrade timm_sbs'):
        load_artifact(small_folder)


@pytest.mark.parametrize('change', [
    lambda s: s.update(sparsity=1), lambda s: s['ordering'].update(second=1), lambda s: s['encoding'].update(phase=0.)])
@pytest.mark.parametrize('writer, says', [
    ('7.1.0', r"timm_sbs>=7.1.0'"), ('\x1b[2J', 'pip install --upgrade timm_sbs'),
    (3, 'pip install --upgrade timm_sbs')])
def test_unknown_structure_says_which_version_is_needed(small_folder, change, writer, says):
    def edit(root):
        for part in ('ordering', 'encoding'):
            root['sbs'].setdefault(part, {})
        root['sbs']['results'] = {'versions': {'timm_sbs': writer}}
        change(root['sbs'])

    edit_config(small_folder, edit)
    with pytest.raises(SbsError, match=says) as error:
        load_artifact(small_folder)
    assert '\x1b' not in str(error.value)


def test_unknown_information_is_kept_and_ignored(small_folder, tmp_path):
    state = load_artifact(small_folder).state_dict()

    def edit(root):
        root['sbs']['results']['robustness'] = {'noise': 71.5}
        root['sbs']['ledger']['index'] = 0
        root['pretrained_cfg']['colour_space'] = 'srgb'

    edit_config(small_folder, edit)
    artifact = load_artifact(small_folder)
    assert all(torch.equal(tensor, artifact.state_dict()[name]) for name, tensor in state.items())
    artifact.save(tmp_path / 'copy')
    root = json.loads((tmp_path / 'copy' / 'config.json').read_text())
    assert root['sbs']['results']['robustness'] == {'noise': 71.5} and root['pretrained_cfg']['colour_space'] == 'srgb'


@pytest.mark.parametrize('change, kind, says', [
    (lambda s: s.update(base='resnet19'), SbsError, "'resnet19' is no architecture"),
    (lambda s: s.update(base='sbs'), SbsError, "'sbs' is no architecture"),
    (lambda s: s.update(base='resnet32_cifar10'), ArtifactError, "lacks tensor 'kept.layer1.3.conv1.weight'"),
    (lambda s: s['generated'].pop(), ArtifactError, "'predictor.output_scale' .* of shape"),
    (lambda s: s['generated'].__setitem__(0, 'nothing.weight'), SbsError, "no weight 'nothing.weight'"),
    (lambda s: s['predictor'].update(width=9), ArtifactError, 'of shape'),
    (lambda s: s['predictor'].update(width=1 << 20, linear_layers=60), ArtifactError, 'more than the 267,264 weights'),
    (lambda s: s.update(encoding={'num_frequencies': 65}), ArtifactError, 'of shape'),
    (lambda s: s.update(ordering={'order_over': 'axes', 'coordinates': 'grid'}), ArtifactError, 'of shape'),
    (lambda s: s.update(storage_dtype='float32'), ArtifactError, 'F16.*F32'),
    (lambda s: s.update(format_version='1'), ArtifactError, 'format_version'),
    (lambda s: s.pop('predictor') and s.update(predictor={'width': 'wide'}), ConfigError, 'must be of type int'),
])
def test_config_that_does_not_fit(small_folder, change, kind, says):
    edit_config(small_folder, lambda root: change(root['sbs']))
    with pytest.raises(kind, match=says):
        load_artifact(small_folder)


@pytest.mark.parametrize('change, says', [
    (lambda t: t.update({'kept.linear.bias': torch.zeros(11)}), r'kept.linear.bias.*\[11\].*\[10\]'),
    (lambda t: t.update({'kept.linear.bias': torch.zeros(10, dtype=torch.long)}), 'I64'),
    (lambda t: t.pop('kept.bn1.bias'), "lacks tensor 'kept.bn1.bias'"),
    (lambda t: t.update({'extra': torch.zeros(1)}), "'extra'"),
    (lambda t: t['kept.bn1.bias'].fill_(float('nan')), 'not finite'),
    (lambda t: t.update(frequencies=t['frequencies'].float()), 'frequencies.*F32.*I16'),
    (lambda t: t.update(ordering=torch.cat([t['ordering'], t['ordering']])), 'ordering.*up to'),
])
def test_tensors_that_do_not_fit(small_folder, change, says):
    rewrite_tensors(small_folder, change)
    with pytest.raises(ArtifactError, match=says):
        load_artifact(small_folder)


@pytest.mark.parametrize('change', [
    lambda t: t['ordering'][300:].fill_(255), lambda t: t.update(ordering=t['ordering'][:-1]),
    lambda t: t.update(ordering=t['ordering'][:-400])])
def test_ordering_that_is_none(small_folder, change):
    rewrite_tensors(small_folder, change)
    with pytest.raises(SbsError, match='model.safetensors: The coded ordering is damaged'):
        load_artifact(small_folder)


def test_what_is_not_finite_is_not_written(small_artifact, tmp_path):
    kept = {**small_artifact.kept, 'linear.bias': torch.full((10,), float('nan'))}
    with pytest.raises(ArtifactError, match="'kept.linear.bias'.*not finite"):
        save_artifact(tmp_path / 'out', dataclasses.replace(small_artifact, kept=kept))
    assert not (tmp_path / 'out').exists()


def test_ordering_that_is_no_permutation_is_not_written(small_artifact, tmp_path):
    generator = copy.copy(small_artifact.generator)
    generator.permutations = (
        (np.zeros_like(generator.permutations[0][0]),), *generator.permutations[1:])
    with pytest.raises(SbsError, match=r"'layer1.0.conv1.weight' is not a permutation"):
        save_artifact(tmp_path / 'out', dataclasses.replace(small_artifact, generator=generator))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('fails_at', [1, 2])
def test_failed_write_leaves_the_old_artifact(small_artifact, small_folder, monkeypatch, fails_at):
    before = {p.name: p.read_bytes() for p in small_folder.iterdir()}

    changed = dataclasses.replace(small_artifact, storage=StorageConfig('float32'))
    calls = []

    def full_disk(handle):
        calls.append(handle)
        if len(calls) == fails_at:
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(ArtifactError, match='No space left'):
        save_artifact(small_folder, changed)
    assert {p.name: p.read_bytes() for p in small_folder.iterdir()} == before


def test_folder_that_cannot_be_made(small_artifact, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ArtifactError, match='Cannot write'):
        save_artifact(tmp_path / 'file' / 'out', small_artifact)


def test_a_save_that_fails_leaves_the_old_artifact(small_artifact, small_folder, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in small_folder.iterdir()}
    changed = dataclasses.replace(small_artifact, kept={name: t + 1 for name, t in small_artifact.kept.items()})

    def full(handle):
        raise OSError('No space left on device')

    monkeypatch.setattr('os.fsync', full)
    for folder in (small_folder, tmp_path / 'new' / 'folder'):
        with pytest.raises(ArtifactError, match='Cannot write .*No space left'):
            save_artifact(folder, changed)
    assert {path.name: path.read_bytes() for path in small_folder.iterdir()} == before
    assert not (tmp_path / 'new').exists()


def test_files_of_two_saves_are_never_loaded_together(small_artifact, small_folder, monkeypatch):
    """As after a kill between two names."""
    changed = dataclasses.replace(small_artifact, kept={name: t + 1 for name, t in small_artifact.kept.items()})
    names, replace = [], os.replace

    def killed(source, target):
        names.append(target)
        if len(names) > 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr('os.replace', killed)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(small_folder, changed)
    with pytest.raises(ArtifactError, match='checksum is not the recorded one'):
        load_artifact(small_folder)
    monkeypatch.undo()
    save_artifact(small_folder, changed)
    assert torch.equal(load_artifact(small_folder).kept['bn1.bias'], changed.kept['bn1.bias'])


def test_what_a_name_points_to_is_not_written(small_artifact, small_folder, tmp_path):
    """Also of hidden folders that somebody has put beside the files."""
    thesis = tmp_path / 'thesis'
    thesis.mkdir()
    (thesis / 'config.json').write_text('mine')
    (small_folder / 'LICENSE').symlink_to(thesis / 'config.json')
    (small_folder / '.sbs_saved').symlink_to(thesis)
    save_artifact(small_folder, dataclasses.replace(small_artifact, license_text='Ours.'))
    assert load_artifact(small_folder).license_text == 'Ours.'
    save_artifact(small_folder, small_artifact)
    assert load_artifact(small_folder).license_text is None
    assert [path.name for path in thesis.iterdir()] == ['config.json']
    assert (thesis / 'config.json').read_text() == 'mine'
