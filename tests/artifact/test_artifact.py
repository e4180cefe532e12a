"""The artifact in memory: what a written one would be, without a folder."""
import dataclasses
import doctest
import importlib

import pytest
import timm
import torch
from conftest import SHIPPED, fit_quickly

import timm_sbs
from timm_sbs import SbsError
from timm_sbs.artifact.export import export_checkpoint
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.original import load_original
from timm_sbs.artifact.quantize import quantize_artifact
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.errors import ConfigError

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('module', ['timm_sbs.artifact.artifact', 'timm_sbs.artifact.load', 'timm_sbs.common.config'])
def test_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module), extraglobs={'timm_sbs': timm_sbs, 'torch': torch})
    assert result.attempted and not result.failed


def test_every_name_of_an_artifact_loads_it(small_folder):
    for name in (small_folder, str(small_folder), f'local-dir:{small_folder}'):
        assert timm_sbs.load(name).base.name == 'resnet20_cifar10'
    assert timm_sbs.load(SHIPPED).results.top1 == 91.52
    with pytest.raises(SbsError, match='neither a folder'):
        timm_sbs.load('sbs_nothing')


@pytest.fixture(scope='module', params=[{}, dict(bits=5.)], ids=['floats', 'quantized'])
def artifact(request, resnet20):
    return fit_quickly(resnet20, steps=2, **request.param)


@pytest.mark.parametrize('args', [{}, dict(num_classes=7, in_chans=1), dict(features_only=True)])
def test_models_are_those_of_the_written_artifact(artifact, tmp_path, args):
    """Rounded as it is stored, described in the same way, and adapted by timm."""
    own = artifact.create_model(**args).eval()
    artifact.save(tmp_path / 'a')
    written = timm.create_model(f'local-dir:{tmp_path / "a"}', pretrained=True, **args).eval()
    assert type(own) is type(written)
    for name, tensor in written.state_dict().items():
        if not (args.get('num_classes') and name.startswith('linear')):
            assert torch.equal(own.state_dict()[name], tensor), name
    for field, value in written.pretrained_cfg.items():
        if field not in ('source', 'file'):
            found = own.pretrained_cfg[field]
            assert (tuple(found) if isinstance(found, (list, tuple)) else found) == (
                tuple(value) if isinstance(value, list) else value), field
    assert 'state_dict' not in own.pretrained_cfg


@pytest.mark.parametrize('name', [SHIPPED, 'sbs_resnet20_cifar10_24pct'])
def test_what_was_read_is_written_byte_by_byte(name, tmp_path):
    """Rounding once more would change it."""
    artifact = timm_sbs.load(name)
    artifact.save(tmp_path / 'copy')
    file = 'model.safetensors'
    assert (tmp_path / 'copy' / file).read_bytes() == (shipped_folder(name) / file).read_bytes()
    state = timm.create_model(name, pretrained=True).state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in artifact.create_model().state_dict().items())


def test_what_has_changed_since_is_written_as_it_is_now(tmp_path):
    artifact = timm_sbs.load(SHIPPED)
    coarser = artifact.quantized(QuantizationConfig((3.,) * 4))
    assert coarser.file_tensors is None
    assert coarser.save(tmp_path / 'a').ledger.predictor < 0.8 * artifact.save(tmp_path / 'b').ledger.predictor
    with torch.no_grad():
        next(artifact.generator.predictor.parameters()).mul_(2)
    assert artifact.file_tensors is None
    other = dataclasses.replace(timm_sbs.load(SHIPPED), kept={**artifact.kept, 'linear.bias': torch.ones(10)})
    other.save(tmp_path / 'c')
    assert timm_sbs.load(tmp_path / 'c').kept['linear.bias'].mean() > 0.9


@pytest.mark.parametrize('args', [dict(pretrained=True), dict(pretrained=False), dict(base='resnet18'), dict(cfg={})])
def test_what_the_artifact_itself_says_is_no_argument(args):
    with pytest.raises(ConfigError, match=f"takes no '{next(iter(args))}'.*'resnet20_cifar10'.*always generated"):
        timm_sbs.load(SHIPPED).create_model(**args)


def test_artifacts_are_compared_as_objects():
    """They hold tensors, which have no single answer."""
    one, other = timm_sbs.load(SHIPPED), timm_sbs.load(SHIPPED)
    assert one == one and one != other and len({one, other}) == 2
    assert one.generator.groups[0] != other.generator.groups[0] and len(set(one.generator.groups)) == 1
    assert one.stored.contents != other.stored.contents and hash(one.stored.contents)


def test_an_artifact_does_not_change_with_the_model_that_it_is_of(small_artifact):
    model = timm.create_model('resnet20_cifar10')
    artifact = small_artifact.with_kept(model)
    before = {name: tensor.clone() for name, tensor in artifact.kept.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in artifact.kept.items())
    assert not any(tensor.requires_grad for tensor in artifact.kept.values())


def test_saving_leaves_the_artifact_as_it_was(small_artifact, tmp_path):
    before = small_artifact.state_dict()
    small_artifact.save(tmp_path / 'a')
    small_artifact.create_model()
    assert all(torch.equal(tensor, before[name]) for name, tensor in small_artifact.state_dict().items())


def test_an_artifact_is_told_in_a_line(artifact):
    told = repr(artifact)
    assert len(told) < 200 and 'tensor(' not in told and artifact.base.name in told
    assert f'{len(artifact.generator.names)} weights generated' in told


def test_a_tilde_is_the_home_folder(small_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small_artifact.save('~/a')
    assert timm_sbs.load('~/a').base.name == timm_sbs.load('local-dir:~/a').base.name == small_artifact.base.name
    export_checkpoint('~/a', '~/a.safetensors')
    load_original('local-dir:~/a')
    quantize_artifact('~/a', '~/b')
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'a.safetensors', 'b'}
