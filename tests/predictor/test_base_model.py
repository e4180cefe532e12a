"""The base model as timm builds it, described without memory for its values."""
import pytest
import timm
import torch
from timm.models import register_model

from timm_sbs.common.errors import TargetError
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


def test_a_base_that_computes_while_it_is_built_is_described_all_the_same():
    @register_model
    def computes_while_built(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs):
        model = torch.nn.Sequential(torch.nn.Conv2d(kwargs['in_chans'], 4, 3))
        assert float(model[0].weight.detach().abs().sum()) > 0
        return model

    state = BaseModel('computes_while_built', {}, dict(num_classes=0, input_size=[2, 8, 8])).state
    assert state['0.weight'].is_meta and state['0.weight'].shape == (4, 2, 3, 3)
