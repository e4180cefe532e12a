"""A created model is a model of its base: timm describes, saves, loads and restores it as any other."""
import copy
import json
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from conftest import IMAGENET_ROUNDED, RESNET20, SHIPPED, fit_quickly
from safetensors.torch import load_file, save_file
from timm.models import load_pretrained, save_for_hf

import timm_sbs
from timm_sbs import SbsError
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import save_artifact
from timm_sbs.common.entries import ENTRIES


def logits(model, channels=3, size=32):
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(images)


def description(model):
    return {name: value for name, value in model.pretrained_cfg.items() if name not in ('file', 'hf_hub_id')}


def loaded(folder, **args):
    return timm.create_model(f'local-dir:{folder}', pretrained=True, **args)


@pytest.mark.parametrize('safe', [False, True, 'both'])
@pytest.mark.parametrize('args', [
    {}, dict(num_classes=7), dict(num_classes=0), dict(in_chans=1, num_classes=3), dict(global_pool='max')])
def test_saved_by_timm_and_loaded_again(args, safe, tmp_path):
    model = timm.create_model(SHIPPED, pretrained=True, **args)
    with torch.no_grad():
        model.layer3[0].conv1.weight.mul_(1.1)  # fine-tuned
    save_for_hf(model, tmp_path / 'first', safe_serialization=safe)
    first = loaded(tmp_path / 'first')
    save_for_hf(first, tmp_path / 'second', safe_serialization=safe)
    channels = args.get('in_chans', 3)
    for again in (first, loaded(tmp_path / 'second')):
        assert torch.equal(logits(model, channels), logits(again, channels))
    assert json.loads((tmp_path / 'first' / 'config.json').read_text())['architecture'] == 'resnet20_cifar10'


def test_a_saved_model_needs_timm_alone(tmp_path):
    model = timm.create_model(IMAGENET_ROUNDED, pretrained=True, num_classes=5)
    save_for_hf(model, tmp_path, safe_serialization=True)
    images = torch.ones(1, 3, 64, 64)
    code = (f"import sys, timm, torch\nmodel = timm.create_model('local-dir:{tmp_path}', pretrained=True).eval()\n"
            "print(model(torch.ones(1, 3, 64, 64)).tolist(), 'timm_sbs' in sys.modules)")
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == f'{model.eval()(images).tolist()} False'.split()


def own_arguments(tmp_path):
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20, global_pool='max').eval()
    artifact = fit_quickly(original, steps=2)
    save_artifact(tmp_path / 'a', artifact)
    return artifact


def test_arguments_of_the_base_are_those_that_timm_saves(tmp_path):
    artifact = own_arguments(tmp_path)
    assert json.loads((tmp_path / 'a' / 'config.json').read_text())['model_args'] == {'global_pool': 'max'}
    for number, model in enumerate((loaded(tmp_path / 'a'), artifact.create_model(), loaded(tmp_path / 'a'))):
        assert model.global_pool.pool_type == 'max'
        save_for_hf(model, tmp_path / str(number))
        again = loaded(tmp_path / str(number))
        assert again.global_pool.pool_type == 'max' and torch.equal(logits(again), logits(model))
    assert timm.create_model(f'local-dir:{tmp_path / "a"}').global_pool.pool_type == 'max'


def test_the_callers_arguments_go_before_the_artifacts(tmp_path):
    own_arguments(tmp_path)
    for pretrained in (False, True):
        model = timm.create_model(
            f'local-dir:{tmp_path / "a"}', pretrained=pretrained, global_pool='avg', num_classes=3)
        assert model.global_pool.pool_type == 'avg' and model.num_classes == 3


def test_positions_follow_another_image_size(tmp_path):
    original = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=2).eval()
    save_artifact(tmp_path / 'a', fit_quickly(original, steps=1))
    model = loaded(tmp_path / 'a', img_size=64)
    assert model.pos_embed.shape[1] == 17 and len(model.blocks) == 2
    save_for_hf(model, tmp_path / 'b')
    assert torch.equal(logits(loaded(tmp_path / 'b'), size=64), logits(model, size=64))


@pytest.mark.parametrize('name', ENTRIES)
def test_one_description_wherever_a_model_comes_from(name):
    entry = timm.create_model(name, pretrained=True)
    folder = f'local-dir:{shipped_folder(name)}'
    others = [timm.create_model(name), timm.create_model(folder, pretrained=True), timm.create_model(folder),
              timm_sbs.load(name).create_model()]
    assert all(description(other) == description(entry) for other in others)
    assert entry.pretrained_cfg['architecture'] == ENTRIES[name].base and 'tag' not in entry.pretrained_cfg
    assert not any(isinstance(value, list) for value in entry.pretrained_cfg.values())
    assert others[0].pretrained_cfg == entry.pretrained_cfg
    (1,) + entry.default_cfg['input_size']
    json.dumps(entry.pretrained_cfg)


@pytest.mark.parametrize('pretrained', [False, True])
def test_load_pretrained_restores_without_a_network(pretrained, monkeypatch):
    monkeypatch.setattr('socket.socket.connect', None)
    expected = timm.create_model(SHIPPED, pretrained=True)
    model = timm.create_model(SHIPPED, pretrained=pretrained)
    torch.nn.init.zeros_(model.conv1.weight)
    load_pretrained(model, num_classes=10)
    assert torch.equal(logits(model), logits(expected))
    other = timm.create_model(SHIPPED, pretrained=pretrained, num_classes=7, in_chans=1)
    load_pretrained(other, num_classes=7, in_chans=1)
    assert torch.equal(other.layer1[0].conv1.weight, expected.layer1[0].conv1.weight)


def test_no_file_is_named_where_none_is_kept(monkeypatch):
    monkeypatch.setenv('TIMM_SBS_CACHE', 'off')
    assert 'file' not in timm.create_model(SHIPPED).pretrained_cfg
    assert 'file' not in timm.create_model(SHIPPED, pretrained=True).pretrained_cfg


def test_copies():
    model = timm.create_model(SHIPPED, pretrained=True)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), timm.utils.ModelEmaV3(model).module):
        assert torch.equal(logits(other), logits(model)) and other.pretrained_cfg == model.pretrained_cfg


@pytest.mark.parametrize('name', ['finetuned.pth', 'wrapped.pth', 'model.safetensors'])
def test_an_ordinary_checkpoint_of_the_base(name, tmp_path, resnet20, monkeypatch):
    """As timm's train.py passes it for --pretrained-path."""
    state = load_file(RESNET20)
    file = tmp_path / name
    save_file(state, file) if file.suffix == '.safetensors' else torch.save(
        {'state_dict': {f'module.{key}': value for key, value in state.items()}} if 'wrapped' in name else state, file)
    monkeypatch.setenv('HOME', str(tmp_path))
    for place in (dict(file=str(file)), dict(file=f'~/{name}'), dict(file=str(file), hf_hub_id='user/other')):
        model = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=place)
        assert torch.equal(logits(model), logits(resnet20)) and model.pretrained_cfg['file'] == str(file)
        load_pretrained(model, num_classes=10)
    assert 'hf_hub_id' not in timm.create_model(
        SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(file))).pretrained_cfg
    other = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(file), num_classes=-1),
                              num_classes=7, in_chans=1)
    assert other.num_classes == 7 and torch.equal(other.layer1[0].conv1.weight, resnet20.layer1[0].conv1.weight)


def test_a_url_is_followed_instead_of_the_predictor(tmp_path, resnet20):
    torch.save(resnet20.state_dict(), tmp_path / 'finetuned.pth')
    url, cache = (tmp_path / 'finetuned.pth').as_uri(), tmp_path / 'hub'
    model = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(url=url), cache_dir=cache)
    assert torch.equal(logits(model), logits(resnet20)) and model.pretrained_cfg['url'] == url
    script = timm.models.resolve_model_input_args(SHIPPED, pretrained_cfg_overlay=dict(url=url))
    again = timm.create_model(**script, pretrained=True, cache_dir=cache)
    assert torch.equal(logits(again), logits(resnet20))


def test_what_is_no_checkpoint_and_no_predictor(tmp_path):
    with pytest.raises(SbsError, match='neither a checkpoint nor a folder'):
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'none.pth')))
    save_file(load_file(RESNET20), tmp_path / 'model.safetensors')
    with pytest.raises(SbsError, match="'sbs' stands for no network"):
        overlay = dict(file=str(tmp_path / 'model.safetensors'))
        timm.create_model('sbs', pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_precision_and_device_are_those_of_any_model(dtype):
    entry = timm.create_model(SHIPPED, pretrained=True)
    torch.set_default_dtype(dtype)
    try:
        models = [timm.create_model(name, **args) for name in ('resnet20_cifar10', SHIPPED)
                  for args in ({}, dict(dtype=torch.float16))]
        again = timm.create_model(SHIPPED, pretrained=True)
    finally:
        torch.set_default_dtype(torch.float32)
    plain, halved, *others = ({n: t.dtype for n, t in m.state_dict().items()} for m in models)
    assert others == [plain, halved] and torch.equal(again.conv1.weight, entry.conv1.weight.to(dtype))
    with torch.device('meta'):
        assert timm.create_model(SHIPPED).conv1.weight.is_meta
    assert timm.create_model(SHIPPED, device='meta').conv1.weight.is_meta
