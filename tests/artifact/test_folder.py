"""Artifacts that are read: damaged, torn, or of another network."""
import copy
import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from conftest import file_bytes
from mutations import seal
from safetensors.torch import load_file, save

import timm_sbs
from timm_sbs.artifact.files import read_config
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.artifact.original import load_original
from timm_sbs.common.errors import ArtifactError, SbsError


def rewritten(folder, change=None, config=None):
    """Change tensors and settings as somebody would who writes files of his own: with a digest that is right."""
    tensors, root = load_file(folder / 'model.safetensors'), json.loads((folder / 'config.json').read_text())
    (change or (lambda tensors: None))(tensors)
    (config or (lambda block: None))(root['sbs'])
    data = save(tensors)
    (folder / 'model.safetensors').write_bytes(data)
    seal(root, data)
    (folder / 'config.json').write_text(json.dumps(root))


def test_stored_tensors_are_what_is_used(small_folder):
    """Frequencies are read, not drawn again from the seed; and so are all others."""
    before = load_artifact(small_folder).state_dict()
    rewritten(small_folder, lambda t: t['frequencies'].neg_())
    after = load_artifact(small_folder).state_dict()
    assert not torch.allclose(before['layer1.0.conv1.weight'], after['layer1.0.conv1.weight'], rtol=0.05)
    rewritten(small_folder, lambda t: t['kept.linear.bias'].add_(1))
    assert torch.equal(load_artifact(small_folder).state_dict()['linear.bias'], before['linear.bias'] + 1)


def test_other_files_and_unknown_information_stay(small_folder):
    (small_folder / 'notes').write_text('mine')
    rewritten(small_folder, config=lambda block: block['results'].update(robustness={'noise': 71.5}))
    root = json.loads((small_folder / 'config.json').read_text())
    root['pretrained_cfg']['colour_space'] = 'srgb'
    (small_folder / 'config.json').write_text(json.dumps(root))
    load_artifact(small_folder).save(small_folder)
    again = json.loads((small_folder / 'config.json').read_text())
    assert again['sbs']['results']['robustness'] == {'noise': 71.5}
    assert again['pretrained_cfg'] == root['pretrained_cfg']
    assert {path.name for path in small_folder.iterdir()} == {'config.json', 'model.safetensors', 'notes'}


def test_a_missing_file(small_folder):
    (small_folder / 'model.safetensors').unlink()
    with pytest.raises(ArtifactError, match='is incomplete: model.safetensors not found'):
        load_artifact(small_folder)


@pytest.mark.parametrize('keep', [0, 4, 100, 20_000, -1])
def test_truncated_tensors(small_folder, keep):
    path = small_folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match='cannot be read.*truncated'):
        load_artifact(small_folder)


def test_files_of_two_saves_are_never_loaded_together(small_artifact, small_folder, monkeypatch):
    """As after a kill between two names."""
    changed = dataclasses.replace(small_artifact, kept={name: t + 1 for name, t in small_artifact.kept.items()})
    names, replace = [], os.replace

    def killed(source, target):
        names.append(target.name)
        if len(names) > 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr('os.replace', killed)
    with pytest.raises(KeyboardInterrupt):
        changed.save(small_folder)
    assert names[0] == 'model.safetensors'
    with pytest.raises(ArtifactError, match='digest is not the recorded one') as error:
        load_artifact(small_folder)
    assert '\n' not in str(error.value)
    monkeypatch.undo()
    changed.save(small_folder)
    assert torch.equal(load_artifact(small_folder).kept['bn1.bias'], changed.kept['bn1.bias'])


@pytest.mark.parametrize('change, says', [
    (lambda s: s.update(base='resnet19'), "'resnet19' is no"),
    (lambda s: s.update(base='resnet32_cifar10'), "lacks tensor 'kept.layer1.3.conv1.weight'"),
    (lambda s: s['generated'].pop(), "'predictor.output_scale' .* of shape"),
    (lambda s: s['generated'].__setitem__(0, 'nothing.weight'), "no weight 'nothing.weight'"),
    (lambda s: s['predictor'].update(width=9), 'of shape'),
    (lambda s: s['predictor'].update(width=1 << 14, linear_layers=60), 'more than the 267,264 weights'),
    (lambda s: s.update(ordering={'order_over': 'axes', 'coordinates': 'grid'}), 'of shape'),
    (lambda s: s.update(storage_dtype='float32'), 'F16.*F32')])
def test_settings_that_do_not_fit(small_folder, change, says):
    rewritten(small_folder, config=change)
    with pytest.raises(SbsError, match=says):
        load_artifact(small_folder)


@pytest.mark.parametrize('change, says', [
    (lambda t: t.update({'kept.linear.bias': torch.zeros(11)}), r'kept.linear.bias.*\[11\].*\[10\]'),
    (lambda t: t.update({'kept.linear.bias': torch.zeros(10, dtype=torch.long)}), 'I64'),
    (lambda t: t.pop('kept.bn1.bias'), "lacks tensor 'kept.bn1.bias'"),
    (lambda t: t.update({'extra': torch.zeros(1)}), "'extra'"),
    (lambda t: t['kept.bn1.bias'].fill_(float('nan')), 'not finite'),
    (lambda t: t.update(ordering=torch.cat([t['ordering'], t['ordering']])), 'ordering.*up to'),
    (lambda t: t.update(ordering=t['ordering'][:-1]), 'model.safetensors: The coded integers are damaged'),
    (lambda t: t.update(ordering=t['ordering'][:-400]), 'model.safetensors: The coded integers are damaged')])
def test_tensors_that_do_not_fit(small_folder, change, says):
    rewritten(small_folder, change)
    with pytest.raises(SbsError, match=says):
        load_artifact(small_folder)


def test_what_cannot_be_read_again_is_not_written(small_artifact, tmp_path):
    kept = {**small_artifact.kept, 'linear.bias': torch.full((10,), float('nan'))}
    with pytest.raises(ArtifactError, match="'kept.linear.bias'.*not finite.*Did training diverge"):
        dataclasses.replace(small_artifact, kept=kept).save(tmp_path / 'out')
    generator = copy.copy(small_artifact.generator)
    generator.permutations = ((np.zeros_like(generator.permutations[0][0]),), *generator.permutations[1:])
    with pytest.raises(SbsError, match=r"'layer1.0.conv1.weight' is not a permutation"):
        dataclasses.replace(small_artifact, generator=generator).save(tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_sizes_are_known_before_writing(small_artifact, tmp_path):
    expected = small_artifact.ledger()
    small_artifact.save(tmp_path)
    assert expected['total'] == file_bytes(tmp_path) and read_config(tmp_path)[0].ledger.items() <= expected.items()
    assert expected['config.json'] == (tmp_path / 'config.json').stat().st_size


def test_a_tilde_is_the_home_folder(small_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small_artifact.save('~/a')
    assert timm_sbs.load('~/a').base.name == timm_sbs.load('local-dir:~/a').base.name == small_artifact.base.name
    small_artifact.export('~/a.safetensors')
    load_original('local-dir:~/a')
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'a.safetensors'}
