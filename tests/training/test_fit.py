"""The trainer as a function: what it takes, returns, leaves alone and refuses."""
import copy

import pytest
import timm
import torch
from accelerate import Accelerator

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.errors import SbsError
from timm_sbs.training.fit import describe_fit, fit
from timm_sbs.training.options.parsing import args_of

QUICK = dict(reconstruction_steps=5, mixed_precision='no')


@pytest.fixture()
def model(resnet8):
    return timm.create_model('resnet8_cifar10', checkpoint_path=resnet8[3])


def test_a_model_by_its_weights_alone(model, capsys):
    before = copy.deepcopy(model.state_dict())
    artifact = fit(model, pct=10, reconstruction_steps=40, mixed_precision='no')
    assert isinstance(artifact, Artifact) and artifact.base.name == 'resnet8_cifar10'
    parameters = sum(p.numel() for p in model.parameters())
    assert 0.098 < artifact.generator.num_parameters / parameters <= 0.1
    assert artifact.results['reconstruction_error'] < 0.9
    assert list(artifact.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert 'reconstruction: error' in capsys.readouterr().out


def test_it_says_nothing_if_it_is_to_be_quiet(model, capsys):
    fit(model, quiet=True, **QUICK)
    assert 'resnet8_cifar10' not in capsys.readouterr().out


def test_images_without_labels(model, image_folder, tmp_path):
    """All phases, in a file of a given size, and everything that a run writes is in a folder of one's own."""
    artifact = fit(
        model, bytes='20k', images=image_folder / 'train', output=tmp_path / 'out', order_over='axes', bits=5,
        statistics_images=50, second_order_steps=4, distillation_steps=2, batch_size=10, workers=0, **QUICK)
    files = [tmp_path / 'out' / name for name in ('config.json', 'model.safetensors')]
    assert 18_750 < sum(path.stat().st_size for path in files) <= 20_000
    assert artifact.storage.quantization and artifact.results['statistics_images'] == 50
    assert (tmp_path / 'out' / 'args.yaml').is_file() and (tmp_path / 'out' / 'last' / 'config.json').is_file()
    weights = load_artifact(tmp_path / 'out').state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in artifact.state_dict().items())


def test_several_folders_and_names(image_folder):
    from timm_sbs.training import fit as module
    args, original = module._request('resnet18', 15, None, [image_folder, str(image_folder)], 'out', {})
    assert args.unlabelled_dir == [str(image_folder)] * 2 and args.model == 'resnet18' and original is None


def test_a_plan_as_text(model):
    text = describe_fit(model, pct=10, **QUICK)
    assert 'files:' in text and 'predictor: width' in text and 'x smaller than' in text


def test_a_model_of_other_arguments_needs_them():
    model = timm.create_model('test_resnet', stem_type='deep', stem_width=32)
    model._model_args = {}  # as of a model that an older timm has made
    with pytest.raises(SbsError, match="not what timm builds as 'test_resnet' .*'conv1.*' has.*model_kwargs"):
        fit(model, **QUICK)
    small = timm.create_model('test_resnet', num_classes=3, in_chans=1, block_args={})
    artifact = fit(small, pct=5, reconstruction_steps=1, mixed_precision='no', quiet=True)
    assert artifact.base.pretrained_cfg['num_classes'] == 3 and artifact.base.pretrained_cfg['input_size'][0] == 1


@pytest.mark.parametrize('wrong, says', [
    (dict(bits=0), '--bits is 0, but must be from 2 to 8'), (dict(bits=1.5), 'must be from 2 to 8'),
    (dict(bits=3, method='rounding', generate=['layer3.*']), '--generate names weights for a predictor'),
    (dict(bits=12), 'must be from 2 to 8'), (dict(bytes=0), "'0' is no number of bytes"), (dict(pct=0), '--pct is 0'),
    (dict(pct=float('nan')), '--pct is nan'), (dict(pct=101), '--pct is 101'),
    (dict(kept_bits=99), '--kept-bits: .*99, but must be from 4 to 12'),
    (dict(surprise=1), "'surprise', which is no flag"), (dict(images='/nowhere'), "'/nowhere' is no folder"),
    (dict(order_over='axis'), "invalid choice: 'axis'"), (dict(recipe='secret'), "invalid choice: 'secret'"),
    (dict(linear_layers=0), 'linear_layers is 0'), (dict(linear_layers=1), 'linear_layers is 1')])
def test_what_cannot_be_is_refused_before_any_work(model, wrong, says, monkeypatch):
    monkeypatch.setattr('timm_sbs.training.run.train.make_accelerator', lambda *_, **__: pytest.fail('work began'))
    with pytest.raises(SbsError, match=says):
        fit(model, **wrong)


@pytest.mark.parametrize('wrong, says', [
    (dict(hflip=7), '--hflip is 7'), (dict(scale=[2, 3]), '--scale is'),
    (dict(crop_padding=-40), '0 or more'),
    (dict(output_weight=[1, 0]), 'at the first or the last step'),
    (dict(images=[]), r'images is \[\], but must be a folder'), (dict(images=3), 'images is 3, but must be a folder'),
    (dict(dry_run=True), 'describe_fit'), (dict(recipe=True), 'expected one argument'),
    (dict(initial_checkpoint='x'), 'has its weights already')])
def test_more_that_cannot_be(model, wrong, says, monkeypatch):
    monkeypatch.setattr('timm_sbs.training.run.train.make_accelerator', lambda *_, **__: pytest.fail('work began'))
    with pytest.raises(SbsError, match=says):
        fit(model, **wrong)


def test_what_is_wrong_is_found_before_a_phase_begins(model, tmp_path, monkeypatch):
    monkeypatch.setattr('timm_sbs.training.run.train.Run', lambda *_, **__: pytest.fail('the run began'))
    (tmp_path / 'file').write_text('')
    for wrong, says in (
            (dict(data_dir='/nowhere'), 'No images could be read'),
            (dict(output=tmp_path / 'file' / 'x'), 'Cannot write'),
            (dict(report_to=['comet_ml']), 'not installed')):
        with pytest.raises(SbsError, match=says):
            fit(model, bytes='64k', method='generation', **wrong)


def test_licence_and_origin_are_what_the_user_says(model, capsys):
    described = dict(model.pretrained_cfg)
    artifact = fit(model, license='cc0-1.0', base_model='user/network', **QUICK)
    assert artifact.base.pretrained_cfg['license'] == 'cc0-1.0'
    assert artifact.results.original_hub_id == 'user/network' and model.pretrained_cfg == described
    assert 'licence' not in capsys.readouterr().out
    artifact = fit(model, **QUICK)
    assert 'license' not in artifact.base.pretrained_cfg and artifact.results.original_hub_id is None
    assert 'The licence of the weights is unknown' in capsys.readouterr().out


def test_the_caller_s_random_numbers_and_processes_are_left_alone(model, monkeypatch):
    monkeypatch.setattr(Accelerator, 'end_training', lambda self: pytest.fail('the group of processes was ended'))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(model, quiet=True, **QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_none_unsets_what_a_recipe_sets():
    assert args_of({'recipe': 'imagenet', 'model': 'resnet18', 'output': 'x'}).bits == 5.8
    assert args_of({'recipe': 'imagenet', 'model': 'resnet18', 'output': 'x', 'bits': None}).bits is None


def test_what_timm_remembers_need_not_be_said(tmp_path):
    """Also of a model that timm has saved and loaded, or of the folder itself."""
    original = timm.create_model('resnet20_cifar10', act_layer='silu', global_pool='max', num_classes=4)
    timm.models.save_for_hf(original, tmp_path)
    for given in (original, timm.create_model(f'local-dir:{tmp_path}', pretrained=True), f'local-dir:{tmp_path}'):
        artifact = fit(given, method='rounding', bits=8, quiet=True, mixed_precision='no')
        assert artifact.base.args == {'act_layer': 'silu', 'global_pool': 'max'}
        created = artifact.create_model()
        assert isinstance(created.act1, torch.nn.SiLU) and created.global_pool.pool_type == 'max'
        assert created.num_classes == 4


@pytest.mark.parametrize('thing', [None, torch.nn.Linear(1, 1), 3])
def test_what_is_no_timm_model(thing):
    with pytest.raises(SbsError, match='one that timm.create_model has made, or the name of one'):
        fit(thing)
