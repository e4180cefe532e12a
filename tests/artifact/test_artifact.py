"""The artifact in memory: what it makes, and what a written one will be."""
import copy
import dataclasses
import doctest
import importlib
import pickle

import pytest
import timm
import torch
from conftest import IMAGENET_SHIPPED, SHIPPED, equal, fit_quickly, started
from safetensors import safe_open

import timm_sbs
from timm_sbs import SbsError
from timm_sbs.artifact.folder import find_folder, load_artifact, shipped_folder
from timm_sbs.cli import main as cli
from timm_sbs.codec.quantization import step_sizes
from timm_sbs.common.config import OTHERS, QuantizationConfig, StorageConfig
from timm_sbs.common.errors import ArtifactError, ConfigError

ROUNDED = 'sbs_resnet20_cifar10_30kb'


@pytest.fixture(scope='module', params=['floats', 'quantized', 'rounded'])
def artifact(request, small_model):
    return {'floats': lambda: fit_quickly(small_model, steps=2),
            'quantized': lambda: fit_quickly(small_model, steps=2, bits=5.),  # with other weights rounded beside it
            'rounded': lambda: started(small_model, None, bytes=12_000)}[request.param]()


@pytest.mark.parametrize('module', [
    'timm_sbs.artifact.artifact', 'timm_sbs.artifact.folder', 'timm_sbs.artifact.images', 'timm_sbs.common.config'])
def test_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module), extraglobs={'timm_sbs': timm_sbs, 'torch': torch})
    assert result.attempted and not result.failed


def test_every_name_of_an_artifact_loads_it(small_folder):
    for name in (small_folder, f'local-dir:{small_folder}', str(small_folder / 'model.safetensors')):
        assert find_folder(str(name)) == small_folder and timm_sbs.load(name).base.name == 'resnet20_cifar10'
    assert find_folder(SHIPPED) == shipped_folder(SHIPPED)
    with pytest.raises(ArtifactError, match=f'neither a folder.*Named ones: .*{SHIPPED}'):
        timm_sbs.load('sbs_nothing')


def test_it_is_read_as_it_says_that_it_is_stored(artifact, tmp_path, small_model):
    artifact.save(tmp_path / 'a')
    loaded, stored = load_artifact(tmp_path / 'a'), artifact.as_stored()
    assert equal(loaded.state_dict(), stored.state_dict())
    assert list(loaded.state_dict()) == list(small_model.state_dict())
    assert equal(loaded.stored_weights(), artifact.stored_weights())
    assert loaded.config == artifact.config
    assert (set(loaded.rounded) | set(loaded.generator.names)) == {
        name for name, tensor in loaded.state_dict().items() if tensor.dim() > 1} or not loaded.storage.quantization


@pytest.mark.parametrize('again', [
    lambda a: a, lambda a: a.as_stored(), lambda a: a.as_stored().with_results(a.results),
    lambda a: pickle.loads(pickle.dumps(a.as_stored())), lambda a: a.as_stored().as_stored()])
def test_what_was_read_or_rounded_is_written_byte_by_byte(artifact, tmp_path, again):
    """Rounding once more would change it."""
    artifact.save(tmp_path / 'first')
    again(artifact).save(tmp_path / 'second')
    again(load_artifact(tmp_path / 'first')).save(tmp_path / 'third')
    for name in ('config.json', 'model.safetensors'):
        assert len({(tmp_path / folder / name).read_bytes() for folder in ('first', 'second', 'third')}) == 1


def test_the_order_of_names_does_not_matter(artifact, tmp_path):
    turned = {part: dict(reversed(getattr(artifact, part).items())) for part in ('kept', 'rounded')}
    dataclasses.replace(artifact, **turned).save(tmp_path)
    assert equal(load_artifact(tmp_path).state_dict(), artifact.as_stored().state_dict())


@pytest.mark.parametrize('name', [SHIPPED, ROUNDED])
def test_a_shipped_one_is_written_byte_by_byte(name, tmp_path):
    timm_sbs.load(name).save(tmp_path)
    for file in shipped_folder(name).iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_what_has_changed_since_is_written_as_it_is_now(tmp_path):
    artifact = timm_sbs.load(SHIPPED)
    coarser = artifact.quantized(QuantizationConfig((3.,) * 5))
    assert coarser.ledger()['predictor'] < 0.8 * artifact.ledger()['predictor']
    dataclasses.replace(artifact, kept={**artifact.kept, 'linear.bias': torch.ones(10)}).save(tmp_path / 'c')
    assert load_artifact(tmp_path / 'c').kept['linear.bias'].mean() > 0.9


def test_float32_storage_is_exact(small_artifact, tmp_path):
    dataclasses.replace(small_artifact, storage=StorageConfig('float32')).save(tmp_path / 'a')
    assert equal(load_artifact(tmp_path / 'a').state_dict(), small_artifact.state_dict())


def test_rounded_weights_are_integers_times_their_steps(small_model, tmp_path):
    artifact = started(small_model, None, bytes=12_000)
    artifact.save(tmp_path)
    loaded = load_artifact(tmp_path)
    for name, tensor in loaded.rounded.items():
        step = step_sizes(loaded.steps[f'rounded.{name}'])
        assert torch.equal(tensor, (small_model.state_dict()[name] / step).round() * step), name
    assert loaded.config.rounded == (OTHERS,) and not loaded.generator.names  # all weights need no names
    some = started(small_model, None, bytes=12_000, keep=('linear.*',))
    assert len(some.config.rounded) == len(artifact.rounded) - 1 and 'linear.weight' in some.kept


def test_floats_of_rounded_weights_are_stored_tensors(small_model, tmp_path):
    """A run for a quantized predictor writes such artifacts before it rounds."""
    artifact = fit_quickly(small_model, steps=1, bits=5.)
    artifact.quantized(None).save(tmp_path)
    loaded = load_artifact(tmp_path)
    assert artifact.rounded and not loaded.rounded and not loaded.config.rounded
    assert all(torch.equal(loaded.kept[name], tensor) for name, tensor in artifact.rounded.items())


def test_fixed_steps_stay_when_weights_change(small_model):
    artifact = fit_quickly(small_model, steps=1, bits=5.).with_fixed_steps()
    grown = copy.deepcopy(artifact.generator.predictor)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.mul_(3)
    weights = artifact.generator.with_predictor(grown)
    fixed = dataclasses.replace(artifact, generator=weights).as_stored().generator.predictor
    free = dataclasses.replace(artifact.quantized(artifact.storage.quantization), generator=weights)
    exact = {name: parameter for name, parameter in grown.named_parameters() if name.endswith('.weight')}
    errors = [sum(float((predictor.get_parameter(name) - weight).detach().square().sum())
                  for name, weight in exact.items()) for predictor in (fixed, free.as_stored().generator.predictor)]
    assert 3 * errors[0] < errors[1]


@pytest.mark.parametrize('args', [{}, dict(num_classes=7, in_chans=1), dict(features_only=True)])
def test_models_are_those_of_the_written_artifact(artifact, tmp_path, args):
    """Rounded as it is stored, described in the same way, and adapted by timm."""
    own = artifact.create_model(**args).eval()
    artifact.save(tmp_path / 'a')
    written = timm.create_model(f'local-dir:{tmp_path / "a"}', pretrained=True, **args).eval()
    assert type(own) is type(written)
    assert equal(*({name: tensor for name, tensor in model.state_dict().items()
                    if not (args.get('num_classes') and name.startswith('linear'))} for model in (own, written)))
    assert own.pretrained_cfg == written.pretrained_cfg and 'state_dict' not in own.pretrained_cfg


@pytest.mark.parametrize('args', [dict(pretrained=True), dict(base='resnet18'), dict(cfg={})])
def test_what_the_artifact_itself_says_is_not_an_argument(args):
    with pytest.raises(ConfigError, match=f"takes no '{next(iter(args))}'.*'resnet20_cifar10'.*always generated"):
        timm_sbs.load(SHIPPED).create_model(**args)


def test_an_artifact_does_not_change_with_what_is_made_of_it(small_artifact, tmp_path):
    before = small_artifact.state_dict()
    model = timm.create_model('resnet20_cifar10')
    copied = small_artifact.with_kept(model)
    kept = {name: tensor.clone() for name, tensor in copied.kept.items()}
    for tensor in (*model.state_dict().values(), *small_artifact.state_dict().values(),
                   *small_artifact.create_model().state_dict().values(), *small_artifact.stored_weights().values()):
        tensor.add_(1)
    small_artifact.save(tmp_path / 'a')
    assert equal(copied.kept, kept) and not any(tensor.requires_grad for tensor in copied.kept.values())
    assert equal(small_artifact.state_dict(), before)


def test_results_are_written_as_they_are(small_artifact, tmp_path):
    artifact = small_artifact.with_results({'top1': 1., 'unknown': {'noise': [1, 2]}})
    artifact.save(tmp_path)
    assert load_artifact(tmp_path).results == artifact.results == {'top1': 1., 'unknown': {'noise': [1, 2]}}
    with pytest.raises(ConfigError, match='cannot be written as JSON'):
        artifact.with_results({'top1': float('nan')}).save(tmp_path)


def test_an_artifact_is_told_in_a_line(artifact):
    told = repr(artifact)
    assert len(told) < 200 and 'tensor(' not in told and artifact.base.name in told
    assert ('weights generated' in told) == bool(artifact.generator.names)
    assert artifact != copy.copy(artifact)  # tensors have no single answer


def test_folded_predictors_load_as_they_were_fitted(small_model, tmp_path):
    artifact = started(small_model, storage_dtype='float32', max_positions=500)
    assert len({group.fold for group in artifact.generator.groups}) > 1
    artifact.save(tmp_path)
    assert equal(load_artifact(tmp_path).state_dict(), artifact.state_dict())


def test_the_command_says_how_to_load_it_and_the_licence_goes_with_the_weights(tmp_path, capsys):
    output = tmp_path / 'a.safetensors'
    assert cli.main(['export', IMAGENET_SHIPPED, str(output)]) == 0
    said = capsys.readouterr().out
    assert f"timm.create_model('resnet18.tv_in1k', checkpoint_path='{output}')" in said
    assert 'licence: cc-by-nc-4.0' in said
    with safe_open(output, framework='pt') as file:
        assert file.metadata()['license'] == 'cc-by-nc-4.0'
        assert file.metadata()['license_text'] == (shipped_folder(IMAGENET_SHIPPED) / 'LICENSE').read_text()


def test_what_is_exported_is_rounded_as_it_is_stored(small_artifact, tmp_path):
    """Before the artifact is saved, too."""
    small_artifact.export(tmp_path / 'a.safetensors')
    model = timm.create_model('resnet20_cifar10', checkpoint_path=tmp_path / 'a.safetensors')
    assert equal(model.state_dict(), small_artifact.as_stored().state_dict())


def test_nothing_is_left_where_writing_fails(small_artifact, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SbsError, match='Cannot write'):
        small_artifact.export(tmp_path / 'file' / 'a.safetensors')
    with pytest.raises(SbsError, match='must end in .safetensors'):
        small_artifact.export(tmp_path / 'a.pth')
    assert not list(tmp_path.glob('*.safetensors'))
