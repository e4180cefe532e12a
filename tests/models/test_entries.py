"""The shipped predictor as a timm model, with all that timm users do to a model."""
import copy
import dataclasses
import gc
import json
import os

import pytest
import timm
import torch
from conftest import CIFAR_ALL, IMAGENET_ALL, IMAGENET_ROUNDED, RESNET20, SHIPPED
from processes import run
from torch.utils._python_dispatch import TorchDispatchMode

from timm_sbs import SbsError
from timm_sbs.artifact import download as hub
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact, read_config, save_artifact
from timm_sbs.common.entries import ENTRIES
from timm_sbs.common.errors import ArtifactError
from timm_sbs.data.accuracy import evaluate
from timm_sbs.models import entries

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def shipped():
    return timm.create_model(SHIPPED, pretrained=True).eval()


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return 1
    if isinstance(value, dict):
        return sum(map(tensors_in, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(tensors_in, value))
    return 0


def test_listed_as_pretrained():
    assert SHIPPED in timm.list_models('sbs_*', pretrained=True)
    assert timm.is_model_pretrained(SHIPPED)


def test_what_stands_for_no_network_is_known_but_not_listed():
    assert timm.is_model('sbs') and 'sbs' not in timm.list_models() + timm.list_models(include_tags=True)
    for pretrained in (False, True):
        with pytest.raises(SbsError, match="'sbs' stands for no network"):
            timm.create_model('sbs', pretrained=pretrained)


def test_every_name_that_is_listed_as_pretrained_is_created_offline():
    code = (
        'import timm, timm_sbs\n'
        "names = timm.list_models('sbs*', pretrained=True)\n"
        'for name in names: timm.create_model(name, pretrained=True)\n'
        'print(*names)')
    done = run('-c', code, env={**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_ENDPOINT': 'http://127.0.0.1:9'})
    assert not done.returncode and sorted(done.stdout.split()) == sorted([*CIFAR_ALL, *IMAGENET_ALL, IMAGENET_ROUNDED])


@pytest.mark.parametrize('name', ENTRIES)
def test_entry_points_are_functions_of_their_own(name):
    """As timm's own ones: under their names, with a documentation, in the module that lists them."""
    create = timm.models.model_entrypoint(name)
    assert create is getattr(entries, name) and create.__name__ == create.__qualname__ == name
    assert create.__module__ == 'timm_sbs.models.entries' and name in entries.__all__
    assert ENTRIES[name].text in create.__doc__ and timm.get_pretrained_cfg(name).license in create.__doc__
    random = timm.create_model(name)
    assert type(random) is type(timm.create_model(ENTRIES[name].base))


def test_a_repository_that_is_not_there_is_told_as_it_is(monkeypatch):
    def unreachable(repo, cache_dir=None, names=()):
        raise ArtifactError(f"'{repo}' is not there.")

    monkeypatch.setattr(hub, 'download', unreachable)
    with pytest.raises(SbsError, match="'user/other' is not there"):
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(hf_hub_id='user/other'))


def test_a_plain_timm_model(shipped, resnet20):
    """Same class, same modules, same names, shapes and dtypes, no hooks: nothing of the predictor is left."""
    assert type(shipped) is type(resnet20)
    assert [(n, type(m)) for n, m in shipped.named_modules()] == [(n, type(m)) for n, m in resnet20.named_modules()]
    state, expected = shipped.state_dict(), resnet20.state_dict()
    assert list(state) == list(expected)
    assert all(t.shape == expected[n].shape and t.dtype == expected[n].dtype for n, t in state.items())
    for module in shipped.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert all(p.requires_grad for p in shipped.parameters())


def test_it_computes_what_the_original_computes(shipped, resnet20):
    """The same operations on tensors of the same shapes: so it is as fast."""
    def operations(model):
        with torch.inference_mode(), _Operations() as seen:
            model(IMAGES)
        return seen.found

    assert len(operations(shipped)) > 50 and operations(shipped) == operations(resnet20)


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.append((str(func), [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
        return func(*args, **(kwargs or {}))


def test_weights_are_the_generated_ones(shipped):
    expected = load_artifact(shipped_folder(SHIPPED)).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in shipped.state_dict().items())


def test_weights_are_near_the_originals(shipped, resnet20):
    """Distillation has moved them, but not to another network: most of each weight is the original's."""
    for name in load_artifact(shipped_folder(SHIPPED)).config.generated:
        generated, original = shipped.get_parameter(name).flatten(), resnet20.get_parameter(name).flatten()
        assert torch.cosine_similarity(generated, original, dim=0) > 0.5, name


@pytest.mark.parametrize('args', [{}, dict(features_only=True), dict(num_classes=7), dict(in_chans=1)])
def test_pretrained_cfg_says_whence_and_holds_no_tensors(args):
    model = timm.create_model(SHIPPED, pretrained=True, **args)
    cfg = model.pretrained_cfg
    assert cfg['architecture'] == 'resnet20_cifar10' and cfg['hf_hub_id'] == f'timm-sbs/{SHIPPED}'
    assert cfg['first_conv'] == 'conv1' and cfg['input_size'] == (3, 32, 32) and cfg['crop_pct'] == 1.0
    for module in model.modules():
        assert tensors_in(module.__dict__.get('pretrained_cfg')) == 0
        assert tensors_in(module.__dict__.get('default_cfg')) == 0


def test_no_copy_of_the_weights_is_kept_alive():
    def tensors():
        gc.collect()
        return {id(o): o for o in gc.get_objects() if type(o) is torch.Tensor and not o.is_meta}

    before = tensors()
    model = timm.create_model(SHIPPED, pretrained=True)
    new = [o for key, o in tensors().items() if key not in before]
    own = {t.data_ptr() for t in model.state_dict().values()}
    assert all(o.data_ptr() in own for o in new)


def test_num_classes_zero_gives_features(shipped):
    model = timm.create_model(SHIPPED, pretrained=True, num_classes=0).eval()
    expected = shipped.forward_head(shipped.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(model(IMAGES), expected)
    assert expected.shape == (4, 64)


def test_num_classes_seven_keeps_all_but_the_classifier(shipped):
    model = timm.create_model(SHIPPED, pretrained=True, num_classes=7).eval()
    assert model(IMAGES).shape == (4, 7) and model.num_classes == 7
    torch.testing.assert_close(model.forward_features(IMAGES), shipped.forward_features(IMAGES))


def test_in_chans_one_adapts_the_stem_as_timm_does(shipped):
    model = timm.create_model(SHIPPED, pretrained=True, in_chans=1).eval()
    torch.testing.assert_close(model.conv1.weight, shipped.conv1.weight.sum(1, keepdim=True))
    gray = IMAGES[:, :1]
    torch.testing.assert_close(model(gray), shipped(gray.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-3)


def test_features_only(shipped):
    model = timm.create_model(SHIPPED, pretrained=True, features_only=True, out_indices=(1, 3)).eval()
    maps = model(IMAGES)
    assert [tuple(m.shape) for m in maps] == [(4, 16, 32, 32), (4, 64, 8, 8)]
    torch.testing.assert_close(maps[-1], shipped.forward_features(IMAGES))
    assert model.feature_info.channels() == [16, 64]


def test_reset_classifier(shipped):
    model = copy.deepcopy(shipped)
    model.reset_classifier(5)
    assert model(IMAGES).shape == (4, 5)


def test_checkpoint_path_is_loaded_after_generation(resnet20):
    model = timm.create_model(SHIPPED, pretrained=True, checkpoint_path=RESNET20).eval()
    torch.testing.assert_close(model(IMAGES), resnet20(IMAGES))


def test_state_dict_saves_and_loads(shipped, tmp_path):
    torch.save(shipped.state_dict(), tmp_path / 'saved.pth')
    model = timm.create_model(SHIPPED).eval()
    assert not torch.allclose(model(IMAGES), shipped(IMAGES))
    model.load_state_dict(torch.load(tmp_path / 'saved.pth', weights_only=True))
    torch.testing.assert_close(model(IMAGES), shipped(IMAGES))
    again = timm.create_model(SHIPPED, checkpoint_path=tmp_path / 'saved.pth').eval()
    torch.testing.assert_close(again(IMAGES), shipped(IMAGES))


def test_state_dict_overlay_goes_before_the_predictor(resnet20):
    overlay = dict(state_dict=resnet20.state_dict())
    model = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    torch.testing.assert_close(model(IMAGES), resnet20(IMAGES))
    assert 'state_dict' not in model.pretrained_cfg


def test_a_config_can_not_pass_off_numbers_as_weights(small_folder):
    path = small_folder / 'config.json'
    root = json.loads(path.read_text())
    root['pretrained_cfg']['state_dict'] = {'conv1.weight': [1.0]}
    path.write_text(json.dumps(root))
    expected = load_artifact(small_folder).state_dict()
    model = timm.create_model(f'local-dir:{small_folder}', pretrained=True)
    assert torch.equal(model.conv1.weight, expected['conv1.weight'])
    with pytest.raises(SbsError, match='no tensor'):
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg=root['pretrained_cfg'])


def test_deepcopy(shipped):
    torch.testing.assert_close(copy.deepcopy(shipped)(IMAGES), shipped(IMAGES))


def test_export(shipped):
    exported = torch.export.export(shipped, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), shipped(IMAGES))


def test_compile(shipped):
    compiled = torch.compile(copy.deepcopy(shipped), backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), shipped(IMAGES))


def test_training_goes_on_as_with_any_model(shipped):
    model = copy.deepcopy(shipped).train()
    model(IMAGES).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_cache_dir_stays_empty_since_nothing_is_downloaded(tmp_path, shipped):
    model = timm.create_model(SHIPPED, pretrained=True, cache_dir=tmp_path).eval()
    torch.testing.assert_close(model(IMAGES), shipped(IMAGES))
    assert not list(tmp_path.iterdir())


def test_not_pretrained_is_random_and_described():
    first, second = timm.create_model(SHIPPED), timm.create_model(SHIPPED)
    assert not torch.equal(first.layer1[0].conv1.weight, second.layer1[0].conv1.weight)
    assert first.pretrained_cfg['mean'] == (0.485, 0.456, 0.406) and first.num_classes == 10


@pytest.mark.parametrize('file', ['', 'config.json', 'model.safetensors'])
def test_overlay_file_loads_a_users_predictor(small_folder, small_artifact, file):
    overlay = dict(file=str(small_folder / file))
    model = timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=overlay)
    expected = load_artifact(small_folder).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())
    assert 'hf_hub_id' not in model.pretrained_cfg  # which has other weights


def test_local_dir_loads_a_users_predictor(small_folder):
    name = f'local-dir:{small_folder}'
    model = timm.create_model(name, pretrained=True).eval()
    expected = load_artifact(small_folder).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())
    assert model.pretrained_cfg['architecture'] == 'resnet20_cifar10'
    assert timm.create_model(name, pretrained=True, num_classes=3, in_chans=1)(IMAGES[:, :1]).shape == (4, 3)
    assert len(timm.create_model(name, pretrained=True, features_only=True)(IMAGES)) == 4
    random = timm.create_model(name).eval()
    assert random.num_classes == 10 and not torch.allclose(random(IMAGES), model(IMAGES))


def test_predictor_of_another_class_count(resnet20, tmp_path):
    """The artifact, not the entry, says how many classes and channels its original had."""
    from conftest import fit_quickly
    original = timm.create_model('resnet20_cifar10', num_classes=3, in_chans=1).eval()
    save_artifact(tmp_path / 'a', fit_quickly(original, steps=2))
    overlay = dict(file=str(tmp_path / 'a'))
    for model in (timm.create_model(f'local-dir:{tmp_path / "a"}', pretrained=True),
                  timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=overlay)):
        assert model(IMAGES[:, :1]).shape == (4, 3)
        torch.testing.assert_close(model.linear.bias, original.linear.bias)
    ten = timm.create_model(f'local-dir:{tmp_path / "a"}', pretrained=True, num_classes=10, in_chans=3)
    assert ten(IMAGES).shape == (4, 10)


def test_predictor_of_another_base_is_refused(small_artifact, tmp_path):
    from conftest import fit_quickly
    save_artifact(tmp_path / 'other', fit_quickly(timm.create_model('resnet32_cifar10').eval(), steps=1))
    with pytest.raises(SbsError, match="generates weights of 'resnet32_cifar10', but 'sbs_resnet20_cifar10_42pct' is"):
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'other')))


@pytest.mark.parametrize('file', ['nowhere', 'small/nothing.safetensors'])
def test_a_folder_that_is_none(small_folder, file):
    with pytest.raises(SbsError, match='neither a checkpoint nor a folder of a predictor'):
        overlay = dict(file=str(small_folder.parent / file))
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=overlay)


def test_what_a_later_timm_says_of_the_original_is_ignored(small_artifact, tmp_path):
    cfg = {**small_artifact.base.pretrained_cfg, 'surprise': 1}
    base = dataclasses.replace(small_artifact.base, pretrained_cfg=cfg)
    artifact = dataclasses.replace(small_artifact, base=base)
    save_artifact(tmp_path / 'a', artifact)
    overlay = dict(file=str(tmp_path / 'a'))
    for model in (artifact.create_model(), timm.create_model(f'local-dir:{tmp_path / "a"}'),
                  timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=overlay)):
        assert 'surprise' not in model.pretrained_cfg
    with pytest.raises(SbsError, match="'surprise'"):  # of the caller, it is a mistake
        timm.create_model(SHIPPED, pretrained=True, pretrained_cfg_overlay=dict(surprise=1))


@pytest.mark.parametrize('name', CIFAR_ALL)
def test_every_shipped_predictor_classifies_real_images(name, images):
    model = timm.create_model(name, pretrained=True)
    assert timm.is_model_pretrained(name) and model.pretrained_cfg['hf_hub_id'] == f'timm-sbs/{name}'
    recorded = read_config(shipped_folder(name))[0].results
    assert evaluate(model, [images]).top1 == pytest.approx(recorded['top1'], abs=4)  # on 500 of 10,000 images
