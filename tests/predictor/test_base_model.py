"""The base model as timm builds it, described without memory for its values."""
import threading
import time

import pytest
import timm
import torch
from timm.models import register_model

from timm_sbs.artifact.build import build_around
from timm_sbs.common.errors import SbsError, TargetError
from timm_sbs.predictor import base_model
from timm_sbs.predictor.base_model import BaseModel, canonical_args, first_names, kept_names, named_state


def test_the_described_state_takes_no_memory_and_matches_the_model():
    cfg = dict(num_classes=7, input_size=[1, 32, 32])
    state = BaseModel('resnet20_cifar10', {}, cfg).state
    expected = timm.create_model('resnet20_cifar10', num_classes=7, in_chans=1).state_dict()
    assert list(state) == list(expected)
    assert all(t.is_meta and t.shape == expected[k].shape and t.dtype == expected[k].dtype for k, t in state.items())


@pytest.mark.parametrize('base, args, cfg, says', [
    ('resnet19', {}, {}, "'resnet19'"),
    ('sbs_resnet20_cifar10_20pct', {}, {}, "'sbs_resnet20_cifar10_20pct'"),
    ('resnet18', {'checkpoint_path': 'x'}, {}, "'checkpoint_path'"),
    ('resnet18', {'block_args': {'a': 1 << 40}}, {}, "'block_args'"),
    ('resnet18', {'no_such_argument': 1}, {}, 'cannot build'),
    ('resnet18', {}, {'num_classes': 10 ** 9}, 'num_classes'),
    ('resnet18', {}, {'input_size': [3]}, 'input_size'),
    ('resnet18', {}, {'input_size': [3, 16_000, 16_000]}, 'input_size'),
])
def test_bases_that_cannot_be_built(base, args, cfg, says):
    with pytest.raises(TargetError, match=says):
        BaseModel(base, args, {'num_classes': 10, 'input_size': [3, 32, 32], **cfg}).state


def test_canonical_args_join_classes_and_channels():
    cfg = dict(num_classes=5, input_size=(4, 8, 8))
    assert canonical_args({'layers': [2, [1]]}, cfg) == dict(layers=(2, (1,)), num_classes=5, in_chans=4)


def test_shared_tensors_have_one_first_name_on_any_device():
    cfg = dict(num_classes=1000, input_size=[3, 224, 224])
    state = BaseModel('coat_tiny', {}, cfg).state  # its blocks share position encodings
    real = named_state(timm.create_model('coat_tiny'))
    assert first_names(state) == first_names(real)
    assert first_names(state)['serial_blocks1.1.cpe.proj.weight'] == 'cpe1.proj.weight'
    kept = kept_names(state, ['cpe1.proj.weight'])
    assert 'cpe1.proj.bias' in kept
    assert not {'cpe1.proj.weight', 'serial_blocks1.0.cpe.proj.weight', 'serial_blocks1.1.cpe.proj.bias'} & set(kept)


def test_what_other_threads_build_does_not_count(monkeypatch):
    @register_model
    def built_beside_another(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs):
        beside = threading.Thread(target=lambda: others.append(torch.nn.ModuleList(torch.nn.ReLU() for _ in range(99))))
        beside.start(), beside.join()
        return torch.nn.Linear(2, 2)

    others = []
    monkeypatch.setattr(base_model, 'MAX_MODULES', 50)
    assert BaseModel('built_beside_another', {}, dict(num_classes=0, input_size=[2, 8, 8])).state
    assert others


def test_a_base_that_computes_while_it_is_built_is_described_all_the_same():
    @register_model
    def computes_while_built(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs):
        model = torch.nn.Sequential(torch.nn.Conv2d(kwargs['in_chans'], 4, 3))
        assert float(model[0].weight.detach().abs().sum()) > 0
        return model

    state = BaseModel('computes_while_built', {}, dict(num_classes=0, input_size=[2, 8, 8])).state
    assert state['0.weight'].is_meta and state['0.weight'].shape == (4, 2, 3, 3)


CIFAR = dict(num_classes=10, input_size=[3, 32, 32], first_conv='conv1', classifier='linear')


@pytest.mark.parametrize('field, value', [
    ('first_conv', 65), ('first_conv', [1]), ('first_conv', 'conv2'), ('classifier', 'fc'), ('classifier', {}),
    ('label_offset', 1), ('label_offset', 'x'), ('fixed_input_size', 'yes'), ('pool_size', 7), ('mean', 'gray'),
    ('crop_pct', None), ('interpolation', 3), ('test_input_size', [3, 32]), ('label_names', [1]),
    ('label_names', [''] * ((1 << 16) + 1)), ('first_conv', ['conv1'] * 65), ('classifier', ['linear'] * 65)])
def test_descriptions_that_timm_would_stumble_over(field, value):
    BaseModel('resnet20_cifar10', {}, CIFAR).state
    with pytest.raises(SbsError, match=f'pretrained_cfg.{field}'):
        BaseModel('resnet20_cifar10', {}, {**CIFAR, field: value}).state


def test_a_network_has_the_size_that_its_description_fixes():
    """As timm builds it, so that what it takes is known before."""
    cfg = dict(num_classes=0, input_size=[3, 64, 32], fixed_input_size=True)
    base = BaseModel('vit_tiny_patch16_224', {}, cfg)
    assert base.state['pos_embed'].shape == (1, 4 * 2 + 1, 192)
    built = build_around(base.name, None, cfg, {}, pretrained=False, base_args={})
    assert {name: tensor.shape for name, tensor in base.state.items()} == {
        name: tensor.shape for name, tensor in built.state_dict().items()}


def test_buffers_count_that_no_state_dict_has():
    cfg = dict(num_classes=0, input_size=[3, 224, 224])
    swin = timm.create_model('swin_tiny_patch4_window7_224', num_classes=0)
    buffers = sum(buffer.nbytes for buffer in swin.buffers())
    assert buffers > 200_000 and not set(dict(swin.named_buffers())) & set(swin.state_dict())
    nbytes = BaseModel('swin_tiny_patch4_window7_224', {}, cfg).network.nbytes
    assert nbytes == buffers + sum(parameter.nbytes for parameter in swin.parameters())


@pytest.mark.parametrize('memory, stored, says', [
    (1 << 40, 100, '100 bytes that are stored'), (1 << 20, 1 << 20, 'this machine')])
def test_networks_larger_than_what_is_stored_may_stand_for(memory, stored, says, monkeypatch):
    monkeypatch.setattr(base_model, 'machine_memory', lambda: memory)
    base = BaseModel('vit_base_patch16_224', {}, dict(num_classes=0, input_size=[3, 224, 224]))
    with pytest.raises(TargetError, match=says):
        base.check_size(stored)
    monkeypatch.setattr(base_model, 'machine_memory', lambda: None)
    base.check_size(1 << 20)


@pytest.mark.parametrize('name, args', [
    ('vit_tiny_patch16_224', {'depth': 4096}),  # modules
    ('tiny_vit_5m_224', {'window_sizes': [2048] * 4}),  # a loop of Python over pairs of a window's places
    ('vit_tiny_patch16_224', {'img_size': 1 << 12}), ('vit_tiny_patch16_224', {'mlp_ratio': 1e6})])
def test_arguments_that_ask_for_too_much_time(name, args, monkeypatch):
    monkeypatch.setattr(base_model, 'MAX_SECONDS', .5)
    start = time.process_time()
    with pytest.raises(TargetError):
        BaseModel(name, args, dict(num_classes=10, input_size=[3, 224, 224])).check_size(1 << 12)
    assert time.process_time() - start < 8


def test_a_base_that_computes_while_it_is_built_has_limits_too():
    @register_model
    def computes_with_much(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs):
        assert float(torch.ones(1)) == 1
        return torch.nn.Linear(1 << 14, 1 << 15, device='cpu')

    with pytest.raises(TargetError, match='memory'):
        BaseModel('computes_with_much', {}, dict(num_classes=0, input_size=[2, 8, 8])).state
