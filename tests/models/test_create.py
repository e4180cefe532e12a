"""A created model is a model of its base: timm describes, adapts, saves, loads and restores it as any other."""
import copy
import gc
import json
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from conftest import IMAGENET_ROUNDED, RESNET20, SHIPPED, described, equal, fit_quickly
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from timm_sbs import SbsError
from timm_sbs.artifact.folder import load_artifact, shipped_folder

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def shipped():
    return timm.create_model(SHIPPED, pretrained=True).eval()


def logits(model, channels=3, size=32):
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(images)


def loaded(folder, **args):
    return timm.create_model(f'local-dir:{folder}', pretrained=True, **args)


def test_a_plain_timm_model(shipped, resnet20):
    """Same class, same modules, same names, shapes and dtypes, no hooks: nothing of the predictor is left."""
    assert [(n, type(m)) for n, m in shipped.named_modules()] == [(n, type(m)) for n, m in resnet20.named_modules()]
    state, expected = shipped.state_dict(), resnet20.state_dict()
    assert list(state) == list(expected)
    assert all(t.shape == expected[n].shape and t.dtype == expected[n].dtype for n, t in state.items())
    for module in shipped.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert all(p.requires_grad for p in shipped.parameters())
    assert equal(state, load_artifact(shipped_folder(SHIPPED)).state_dict())
    assert all(type(tensor.detach()) is torch.Tensor for tensor in (*shipped.parameters(), *shipped.buffers()))


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.append((str(func), [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
        return func(*args, **(kwargs or {}))


def test_it_computes_what_the_original_computes(shipped, resnet20):
    """The same operations on tensors of the same shapes: so it is as fast."""
    found = []
    for model in (shipped, resnet20):
        with torch.inference_mode(), Operations() as seen:
            model(IMAGES)
        found.append(seen.found)
    assert len(found[0]) > 50 and found[0] == found[1]


@pytest.mark.parametrize('args', [{}, dict(features_only=True), dict(num_classes=7), dict(in_chans=1)])
def test_no_tensors_stay_in_a_description_or_in_memory(args):
    def tensors():
        gc.collect()
        return {id(o): o for o in gc.get_objects() if type(o) is torch.Tensor and not o.is_meta}

    before = tensors()
    model = timm.create_model(SHIPPED, pretrained=True, **args)
    own = {t.data_ptr() for t in model.state_dict().values()}
    assert all(o.data_ptr() in own for key, o in tensors().items() if key not in before)
    for module in model.modules():
        assert 'state_dict' not in (module.__dict__.get('pretrained_cfg') or {})
    cfg = model.pretrained_cfg
    assert cfg['architecture'] == 'resnet20_cifar10' and cfg['hf_hub_id'] == f'timm-sbs/{SHIPPED}'


def test_timm_makes_no_copy_of_the_weights(monkeypatch):
    """Else a large network would need its memory once more."""
    copied = []
    monkeypatch.setattr(torch.Tensor, '__deepcopy__', lambda self, memo: copied.append(self) or self.clone())
    timm.create_model(f'local-dir:{shipped_folder(SHIPPED)}', pretrained=True)
    assert not copied


def test_other_heads_and_stems_are_adapted_as_timm_does(shipped):
    seven = timm.create_model(SHIPPED, pretrained=True, num_classes=7).eval()
    assert seven(IMAGES).shape == (4, 7)
    torch.testing.assert_close(seven.forward_features(IMAGES), shipped.forward_features(IMAGES))
    none = timm.create_model(SHIPPED, pretrained=True, num_classes=0).eval()
    torch.testing.assert_close(none(IMAGES), shipped.forward_head(shipped.forward_features(IMAGES), pre_logits=True))
    gray = timm.create_model(SHIPPED, pretrained=True, in_chans=1).eval()
    torch.testing.assert_close(gray.conv1.weight, shipped.conv1.weight.sum(1, keepdim=True))
    features = timm.create_model(SHIPPED, pretrained=True, features_only=True, out_indices=(1, 3)).eval()
    assert features.feature_info.channels() == [16, 64]
    torch.testing.assert_close(features(IMAGES)[-1], shipped.forward_features(IMAGES))


def test_a_backbone_is_fine_tuned_under_another_head():
    """Segmentation of bright and dark places."""
    torch.manual_seed(0)
    backbone = timm.create_model(SHIPPED, pretrained=True, features_only=True, out_indices=(1, 2))
    head = torch.nn.Conv2d(sum(backbone.feature_info.channels()), 2, 1)
    masks = (IMAGES.mean(1) > 0).long()
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=1e-3)
    losses = []
    for _ in range(12):
        early, late = backbone(IMAGES)
        late = F.interpolate(late, size=early.shape[2:])
        logits = F.interpolate(head(torch.cat([early, late], dim=1)), size=masks.shape[1:], mode='bilinear')
        losses.append(F.cross_entropy(logits, masks))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0] and backbone.conv1.weight.grad.abs().max() > 0


def test_new_classifiers_are_drawn_at_random_each_time():
    drawn = [[timm.create_model(SHIPPED, pretrained=True, num_classes=3).linear.weight.detach() for _ in range(2)],
             [timm.create_model(SHIPPED).layer1[0].conv1.weight.detach() for _ in range(2)]]
    for one, other in drawn:
        assert not torch.equal(one, other) and all(0.01 < float(weight.std()) < 1 for weight in (one, other))


def test_a_checkpoint_is_loaded_after_generation(resnet20, shipped, tmp_path):
    model = timm.create_model(SHIPPED, pretrained=True, checkpoint_path=RESNET20)
    assert equal(model.state_dict(), resnet20.state_dict())
    torch.save(shipped.state_dict(), tmp_path / 'saved.pth')
    assert equal(timm.create_model(SHIPPED, checkpoint_path=tmp_path / 'saved.pth').state_dict(), shipped.state_dict())


@pytest.mark.parametrize('args', [{}, dict(num_classes=7), dict(in_chans=1, num_classes=0), dict(global_pool='max')])
def test_saved_by_timm_and_loaded_again(args, tmp_path):
    model = timm.create_model(SHIPPED, pretrained=True, **args)
    with torch.no_grad():
        model.layer3[0].conv1.weight.mul_(1.1)  # fine-tuned
    save_for_hf(model, tmp_path / 'first', safe_serialization=True)
    first = loaded(tmp_path / 'first')
    save_for_hf(first, tmp_path / 'second', safe_serialization='both')
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


def test_copies_export_and_training_are_those_of_any_model(shipped):
    for other in (copy.deepcopy(shipped), pickle.loads(pickle.dumps(shipped)), timm.utils.ModelEmaV3(shipped).module):
        assert torch.equal(logits(other), logits(shipped)) and other.pretrained_cfg == shipped.pretrained_cfg
    torch.testing.assert_close(torch.export.export(shipped, (IMAGES,)).module()(IMAGES), shipped(IMAGES))
    model = copy.deepcopy(shipped).train()
    model(IMAGES).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.reset_classifier(5)
    assert model(IMAGES).shape == (4, 5)


def test_arguments_of_the_base_are_those_that_timm_saves(tmp_path):
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20, global_pool='max').eval()
    artifact = fit_quickly(original, steps=2)
    artifact.save(tmp_path / 'a')
    assert json.loads((tmp_path / 'a' / 'config.json').read_text())['model_args'] == {'global_pool': 'max'}
    for number, model in enumerate((loaded(tmp_path / 'a'), artifact.create_model())):
        assert model.global_pool.pool_type == 'max'
        save_for_hf(model, tmp_path / str(number))
        again = loaded(tmp_path / str(number))
        assert again.global_pool.pool_type == 'max' and torch.equal(logits(again), logits(model))
    for pretrained in (False, True):  # the caller's arguments go first
        name = f'local-dir:{tmp_path / "a"}'
        assert timm.create_model(name, pretrained=pretrained).global_pool.pool_type == 'max'
        other = timm.create_model(name, pretrained=pretrained, global_pool='avg', num_classes=3)
        assert other.global_pool.pool_type == 'avg' and other.num_classes == 3


def test_positions_follow_another_image_size(tmp_path):
    original = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=2).eval()
    fit_quickly(original, steps=1).save(tmp_path / 'a')
    model = loaded(tmp_path / 'a', img_size=64)
    assert model.pos_embed.shape[1] == 17 and len(model.blocks) == 2
    save_for_hf(model, tmp_path / 'b')
    assert torch.equal(logits(loaded(tmp_path / 'b'), size=64), logits(model, size=64))


@pytest.mark.parametrize('file', ['', 'config.json', 'model.safetensors'])
def test_an_overlay_loads_a_users_artifact(small_folder, file):
    model = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(small_folder / file)))
    assert equal(model.state_dict(), load_artifact(small_folder).state_dict())
    assert 'hf_hub_id' not in model.pretrained_cfg  # which has other weights
    assert equal(loaded(small_folder).state_dict(), model.state_dict())


def test_an_artifact_of_other_classes_or_another_base(small_model, tmp_path):
    """The artifact, not the entry, says how many classes and channels its original had."""
    original = timm.create_model('resnet20_cifar10', num_classes=3, in_chans=1).eval()
    fit_quickly(original, steps=2).save(tmp_path / 'a')
    overlay = dict(file=str(tmp_path / 'a'))
    for model in (loaded(tmp_path / 'a'), timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=overlay)):
        assert model(IMAGES[:, :1]).shape == (4, 3)
        torch.testing.assert_close(model.linear.bias, original.linear.bias)
    assert loaded(tmp_path / 'a', num_classes=10, in_chans=3)(IMAGES).shape == (4, 10)
    fit_quickly(small_model, steps=1).save(tmp_path / 'other')
    with pytest.raises(SbsError, match="has weights of 'resnet8_cifar10', but 'sbs_resnet20_cifar10_20pct' is"):
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'other')))


@pytest.mark.parametrize('name', ['finetuned.pth', 'wrapped.pth', 'model.safetensors'])
def test_an_ordinary_checkpoint_of_the_base(name, tmp_path, resnet20, monkeypatch):
    """As timm's train.py passes it for --pretrained-path."""
    state = load_file(RESNET20)
    file = tmp_path / name
    save_file(state, file) if file.suffix == '.safetensors' else torch.save(
        {'state_dict': {f'module.{key}': value for key, value in state.items()}} if 'wrapped' in name else state, file)
    monkeypatch.setenv('HOME', str(tmp_path))
    for place in (dict(file=str(file)), dict(file=f'~/{name}', hf_hub_id='user/other')):
        model = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=place)
        assert equal(model.state_dict(), resnet20.state_dict()) and model.pretrained_cfg['file'] == str(file)
    other = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(file), num_classes=-1),
                              num_classes=7, in_chans=1)
    assert other.num_classes == 7 and torch.equal(other.layer1[0].conv1.weight, resnet20.layer1[0].conv1.weight)


def test_a_url_and_a_state_dict_go_before_the_artifact(tmp_path, resnet20):
    torch.save(resnet20.state_dict(), tmp_path / 'finetuned.pth')
    for overlay in (dict(url=(tmp_path / 'finetuned.pth').as_uri()), dict(state_dict=resnet20.state_dict())):
        model = timm.create_model(
            SHIPPED, pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path / 'hub')
        assert equal(model.state_dict(), resnet20.state_dict()) and 'state_dict' not in model.pretrained_cfg
        assert model.pretrained_cfg.get('url') == overlay.get('url')


def test_what_is_neither_a_checkpoint_nor_an_artifact(tmp_path, small_folder):
    for file in ('none.pth', 'small/nothing.safetensors'):
        with pytest.raises(SbsError, match='neither a checkpoint nor a folder with an artifact'):
            timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / file)))
    root = json.loads((small_folder / 'config.json').read_text())
    root['pretrained_cfg']['state_dict'] = {'conv1.weight': [1.0]}  # numbers passed off as weights
    (small_folder / 'config.json').write_text(json.dumps(root))
    assert torch.equal(loaded(small_folder).conv1.weight, load_artifact(small_folder).state_dict()['conv1.weight'])
    with pytest.raises(SbsError, match='not a tensor'):
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg=root['pretrained_cfg'])


def test_unknown_fields_of_a_description(small_artifact, tmp_path):
    """Of a later timm they are ignored; of the caller they are a mistake."""
    artifact = described(small_artifact, surprise=1)
    artifact.save(tmp_path / 'a')
    for model in (artifact.create_model(), timm.create_model(f'local-dir:{tmp_path / "a"}'), loaded(tmp_path / 'a')):
        assert 'surprise' not in model.pretrained_cfg
    with pytest.raises(SbsError, match="'surprise'"):
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(surprise=1))


@pytest.mark.filterwarnings('ignore:.*which is a no-op')  # timm, when it loads weights into a model on meta
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_precision_and_device_are_those_of_any_model(dtype, shipped):
    torch.set_default_dtype(dtype)
    try:
        models = [timm.create_model(name, **args) for name in ('resnet20_cifar10', SHIPPED)
                  for args in ({}, dict(dtype=torch.float16))]
        with torch.autocast('cpu', torch.bfloat16):
            again = timm.create_model(SHIPPED, pretrained=True)
    finally:
        torch.set_default_dtype(torch.float32)
    plain, halved, *others = ({n: t.dtype for n, t in m.state_dict().items()} for m in models)
    assert others == [plain, halved] and torch.equal(again.conv1.weight, shipped.conv1.weight.to(dtype))
    with torch.device('meta'):
        assert timm.create_model(SHIPPED).conv1.weight.is_meta
        assert timm.create_model(SHIPPED, pretrained=True).conv1.weight.is_meta
    assert timm.create_model(SHIPPED, device='meta').conv1.weight.is_meta
