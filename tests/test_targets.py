import pytest
import timm
import torch

from timm_sbs.config import TargetRule
from timm_sbs.errors import TargetError
from timm_sbs.targets import ConvSpec, canonical_args, describe_base, from_kernels, kept_names, select_targets, \
    specs_from_names, to_kernels


def test_resnet20_generates_all_but_stem_norms_and_classifier(resnet20):
    specs = select_targets(resnet20)
    assert len(specs) == 18
    assert sum(spec.num_weights for spec in specs) == 267_264
    assert [spec.name for spec in specs][:2] == ['layer1.0.conv1.weight', 'layer1.0.conv2.weight']
    kept = kept_names(resnet20.state_dict(), [spec.name for spec in specs])
    assert {'conv1.weight', 'bn1.running_var', 'linear.bias'} <= set(kept)
    assert not any(name.endswith('num_batches_tracked') for name in kept)


def test_resnet18_keeps_its_stem_although_it_is_large():
    names = [spec.name for spec in select_targets(timm.create_model('resnet18'))]
    assert 'conv1.weight' not in names and 'layer4.1.conv2.weight' in names
    assert not any('downsample' in name for name in names)  # 1x1


def test_rule_can_be_overruled_by_name(resnet20):
    names = {s.name for s in select_targets(resnet20, TargetRule(include=('conv1.*',), exclude=('layer1.*',)))}
    assert 'conv1.weight' in names and 'layer2.0.conv1.weight' in names
    assert not any(name.startswith('layer1') for name in names)
    large = select_targets(resnet20, TargetRule(min_weights=36_864))
    assert len(large) == 5 and all(spec.num_weights == 36_864 for spec in large)


def test_model_without_spatial_convolutions_is_refused():
    with pytest.raises(TargetError, match='no convolution weight to generate'):
        select_targets(torch.nn.Sequential(torch.nn.Conv2d(64, 64, 1), torch.nn.Linear(64, 64)))


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (4, 3, 3, 3), (8, 1, 5, 5), (2, 7, 1, 3), (3, 2, 7, 2)])
def test_kernels_and_back(shape):
    weight = torch.randn(shape)
    spec = ConvSpec('w', shape)
    kernels = to_kernels(weight, spec)
    assert kernels.shape == (shape[0] * shape[1], shape[2] * shape[3])
    assert torch.equal(kernels[shape[1] - 1], weight[0, -1].flatten())
    assert torch.equal(from_kernels(kernels, spec), weight)


def test_wrong_shapes_name_the_layer_and_both_shapes():
    spec = ConvSpec('stage.conv.weight', (4, 3, 3, 3))
    with pytest.raises(TargetError, match=r'stage\.conv\.weight.*\[4, 2, 3, 3\].*\[4, 3, 3, 3\]'):
        to_kernels(torch.zeros(4, 2, 3, 3), spec)
    with pytest.raises(TargetError, match='12 kernels of 9 values'):
        from_kernels(torch.zeros(11, 9), spec)


def test_describe_base_takes_no_memory_and_matches_the_model():
    cfg = dict(num_classes=7, input_size=[1, 32, 32])
    state = describe_base('resnet20_cifar10', {}, cfg)
    expected = timm.create_model('resnet20_cifar10', num_classes=7, in_chans=1).state_dict()
    assert list(state) == list(expected)
    assert all(t.is_meta and t.shape == expected[k].shape and t.dtype == expected[k].dtype for k, t in state.items())


@pytest.mark.parametrize('base, args, cfg, says', [
    ('resnet19', {}, {}, "'resnet19' is no architecture"),
    ('sbs_resnet20_cifar10_42pct', {}, {}, 'is no architecture'),
    ('resnet18', {'pretrained': True}, {}, "'pretrained'"),
    ('resnet18', {'checkpoint_path': 'x'}, {}, "'checkpoint_path'"),
    ('resnet18', {'block_args': {'a': 1}}, {}, "'block_args'"),
    ('resnet18', {'no_such_argument': 1}, {}, 'cannot build'),
    ('resnet18', {}, {'num_classes': -1}, 'num_classes'),
    ('resnet18', {}, {'num_classes': 10 ** 9}, 'num_classes'),
    ('resnet18', {}, {'input_size': [3]}, 'input_size'),
])
def test_bases_that_cannot_be_built(base, args, cfg, says):
    with pytest.raises(TargetError, match=says):
        describe_base(base, args, {'num_classes': 10, 'input_size': [3, 32, 32], **cfg})


def test_canonical_args_join_classes_and_channels():
    cfg = dict(num_classes=5, input_size=(4, 8, 8))
    assert canonical_args({'drop_rate': 0.5}, cfg) == dict(drop_rate=0.5, num_classes=5, in_chans=4)


def test_specs_from_names_refuses_what_is_no_convolution():
    state = {'fc.weight': torch.zeros(3, 4)}
    with pytest.raises(TargetError, match='no convolution weight'):
        specs_from_names(['fc.weight'], state, 'base')
    with pytest.raises(TargetError, match="no weight 'conv.weight'"):
        specs_from_names(['conv.weight'], state, 'base')
