"""The trainer as a function: what it takes, returns, leaves alone and refuses."""
import copy
import dataclasses

import pytest
import timm
import torch

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.config import QuantizationConfig, StorageConfig
from timm_sbs.common.errors import SbsError
from timm_sbs.training.fit import fit

QUICK = dict(reconstruction_steps=2, mixed_precision='no')


def same(one, other):
    state, expected = one.state_dict(), other.state_dict()
    return list(state) == list(expected) and all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_a_model_by_its_weights_alone(resnet8, capsys, tmp_path, monkeypatch):
    """The artifact is that which a reader of its file gets, the model stays as it is, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    model = timm.create_model(resnet8['model'], checkpoint_path=resnet8['initial_checkpoint'])
    before = copy.deepcopy(model.state_dict())
    artifact = fit(model, pct=10, reconstruction_steps=40, mixed_precision='no')
    assert isinstance(artifact, Artifact) and artifact.base.name == 'resnet8_cifar10'
    assert 0.098 < artifact.generator.num_parameters / sum(p.numel() for p in model.parameters()) <= 0.1
    assert artifact.results['reconstruction_error'] < 0.9 and artifact.results['reconstruction_steps'] == 40
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert f"reconstruction: error {artifact.results['reconstruction_error']:.4f}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    artifact.save(tmp_path / 'a')
    assert same(load_artifact(tmp_path / 'a'), artifact)


def test_a_name_a_file_of_settings_and_a_folder(resnet8, tmp_path, capsys):
    """Arguments overrule the file. A quiet run warns alone, and what it writes is what it returns."""
    path = tmp_path / 'c.yaml'
    path.write_text('pct: 50\nlinear_layers: 3\nreconstruction_steps: 2\nsecond_order_steps: 0\nmixed_precision: "no"\n'
                    f"initial_checkpoint: {resnet8['initial_checkpoint']}\n")
    artifact = fit(resnet8['model'], pct=10, config=path, output=tmp_path / 'out', quiet=True)
    assert artifact.generator.config.predictor.linear_layers == 3
    assert [line.split(':')[0] for line in capsys.readouterr().out.splitlines()] == ['warning']
    assert sorted(each.name for each in (tmp_path / 'out').iterdir()) == [
        'config.json', 'model.safetensors', 'settings.yaml', 'summary.csv']
    assert same(load_artifact(tmp_path / 'out'), artifact)
    written = tmp_path / 'out' / 'settings.yaml'
    assert same(fit(resnet8['model'], config=written, output=tmp_path / 'again', quiet=True), artifact)
    assert not same(fit(resnet8['model'], config=written, output=tmp_path / 'other', quiet=True, seed=1), artifact)


def test_a_run_says_that_it_replaces_an_artifact(small_model, tmp_path, capsys):
    for replaces in (False, True):
        fit(small_model, bytes='21k', output=tmp_path / 'a', mixed_precision='no')
        assert ('holds an artifact, which this run replaces' in capsys.readouterr().out) == replaces


def test_what_takes_more_bytes_than_were_asked_for_is_told(small_model, monkeypatch, capsys):
    monkeypatch.setattr('timm_sbs.training.train.round_original', lambda artifact, *_: dataclasses.replace(
        artifact, steps={name: code - 48 for name, code in artifact.steps.items()}))  # three octaves finer
    excess = fit(small_model, bytes='21k', mixed_precision='no').ledger()['total'] - 21_000
    assert excess > 0
    assert f'warning: The artifact is {excess:,} bytes larger than --bytes asks for' in capsys.readouterr().out


def test_images_of_a_file_of_settings_are_used(resnet8, tmp_path, image_folder):
    path = tmp_path / 'c.yaml'
    path.write_text(f'images: [{image_folder}/train]\nsecond_order_steps: 3\nstatistics_images: 40\n')
    arguments = dict(config=path, initial_checkpoint=resnet8['initial_checkpoint'], workers=0, distillation_steps=0)
    assert fit(resnet8['model'], **arguments, **QUICK).results['statistics_images'] == 40
    folders = [image_folder / 'train' / 'cat', str(image_folder / 'train' / 'dog')]
    assert fit(resnet8['model'], **arguments, **QUICK, images=folders, batch_size=10,
               statistics_images=1000).results['statistics_images'] == 80


def test_what_timm_remembers_need_not_be_said(tmp_path):
    """Also of a model that timm has saved and loaded, or of the folder itself."""
    original = timm.create_model('resnet8_cifar10', act_layer='silu', global_pool='max', num_classes=4)
    timm.models.save_for_hf(original, tmp_path)
    for given in (original, f'local-dir:{tmp_path}'):
        artifact = fit(given, **QUICK, quiet=True)
        assert artifact.base.args == {'act_layer': 'silu', 'global_pool': 'max'}
        created = artifact.create_model()
        assert isinstance(created.act1, torch.nn.SiLU) and created.num_classes == 4


def test_arguments_of_the_model_that_timm_does_not_remember():
    given = timm.create_model('resnet8_cifar10', act_layer='silu')
    given._model_args = {}  # as of a model that an older timm has made
    with pytest.raises(SbsError, match='model_kwargs'):
        fit(given, **QUICK)
    assert fit(given, model_kwargs={'act_layer': 'silu'}, quiet=True, **QUICK).base.args == {'act_layer': 'silu'}


@pytest.mark.parametrize('thing', [None, torch.nn.Linear(1, 1), 3])
def test_what_is_not_a_model_of_timm(thing):
    with pytest.raises(SbsError, match='one that timm.create_model has made, or the name of one'):
        fit(thing)


def test_a_model_has_its_weights_already(small_model):
    with pytest.raises(SbsError, match='has its weights already'):
        fit(small_model, initial_checkpoint='x')


def test_licence_and_origin_are_what_the_user_says(small_model, capsys):
    described = dict(small_model.pretrained_cfg)
    artifact = fit(small_model, license='cc0-1.0', base_model='user/network', **QUICK)
    assert artifact.base.pretrained_cfg['license'] == 'cc0-1.0' and small_model.pretrained_cfg == described
    assert artifact.results['original_hub_id'] == 'user/network' and 'licence' not in capsys.readouterr().out
    artifact = fit(small_model, **QUICK)
    assert 'license' not in artifact.base.pretrained_cfg and 'original_hub_id' not in artifact.results
    assert 'The licence of the weights is unknown' in capsys.readouterr().out


def test_recalibration_does_not_exceed_the_bytes_that_were_asked_for(small_model, image_folder, monkeypatch):
    def larger(artifact, *_):
        return dataclasses.replace(artifact, storage=StorageConfig(quantization=QuantizationConfig(kept_bits=12)))

    arguments = dict(bytes='66k', keep=['layer[23].*'], images=image_folder / 'train', statistics_images=40,
                     batch_size=20, workers=0, distillation_steps=0, mixed_precision='no', quiet=True)
    expected = fit(small_model, **arguments)
    assert larger(expected).ledger()['total'] > 66_000
    monkeypatch.setattr('timm_sbs.training.train.recalibrated', larger)
    assert fit(small_model, **arguments).ledger()['total'] <= 66_000
