import math
import re

import pytest
import timm
import torch
from torch import nn

from timm_sbs.common.config import SelectionRule
from timm_sbs.common.errors import TargetError
from timm_sbs.predictor.base_model import kept_names, named_state
from timm_sbs.predictor.selection import explain_selection, select_weights, specs_from_names
from timm_sbs.predictor.tokens import WeightSpec, from_kernels, to_kernels


def names_of(model, **rule):
    return [spec.name for spec in select_weights(model, SelectionRule(**rule))]


def build(name):
    with torch.device('meta'):
        return timm.create_model(name)


def test_resnet20_generates_all_but_stem_norms_and_classifier(resnet20):
    specs = select_weights(resnet20)
    assert len(specs) == 18
    assert sum(spec.num_weights for spec in specs) == 267_264
    assert [spec.name for spec in specs][:2] == ['layer1.0.conv1.weight', 'layer1.0.conv2.weight']
    kept = kept_names(named_state(resnet20), [spec.name for spec in specs])
    assert {'conv1.weight', 'bn1.running_var', 'linear.bias'} <= set(kept)
    assert not any(name.endswith('num_batches_tracked') for name in kept)


def test_resnet18_keeps_its_stem_and_generates_its_shortcuts():
    names = names_of(build('resnet18'))
    assert 'conv1.weight' not in names and 'fc.weight' not in names
    assert 'layer4.1.conv2.weight' in names and 'layer2.0.downsample.0.weight' in names


@pytest.mark.parametrize('name, generated, kept', [
    ('convnext_atto', ['stages.0.blocks.0.conv_dw.weight', 'stages.0.blocks.0.mlp.fc1.weight'],
     ['stem.0.weight', 'head.fc.weight', 'stages.0.blocks.0.conv_dw.bias']),
    ('tf_efficientnet_lite0', ['blocks.6.0.conv_dw.weight', 'conv_head.weight'], ['conv_stem.weight']),
    ('resnext26ts', ['stages.0.0.conv2_kxk.conv.weight'], []),
    ('efficientnet_cc_b0_4e', ['blocks.3.0.conv_pw.weight'], []),
    ('vit_tiny_patch16_224', ['blocks.0.attn.qkv.weight', 'blocks.11.mlp.fc2.weight'],
     ['pos_embed', 'patch_embed.proj.weight']),
    ('efficientformer_l1', ['stages.0.blocks.0.mlp.fc1.weight'],  # convolutions, and some attention
     ['stages.3.blocks.4.token_mixer.qkv.weight']),
    ('mobilevit_xxs', ['stages.2.1.conv_kxk.conv.weight', 'stages.2.1.transformer.0.attn.qkv.weight'], []),
    ('nf_regnet_b0', ['stages.0.0.conv1.weight'], ['stages.0.0.conv1.gain']),  # weight-standardized
])
def test_the_rule_on_real_networks(name, generated, kept):
    reasons = explain_selection(build(name))
    assert all(reasons[weight] == '' for weight in generated)
    assert all(reasons[weight] for weight in kept)


def test_every_reason_is_given():
    reasons = explain_selection(build('efficientformer_l1'), SelectionRule(min_weights=20_000, keep=('stages.2.*',)))
    assert set(reasons.values()) == {
        '', 'stem', 'classifier', 'below 20000 weights', 'linear, in a network of convolutions with attention',
        'kept by name', 'norms, biases and others'}


def test_rule_can_be_overruled_by_name(resnet20):
    names = names_of(resnet20, generate=('conv1.*',), keep=('layer1.*',))
    assert 'conv1.weight' in names and 'layer2.0.conv1.weight' in names
    assert not any(name.startswith('layer1') for name in names)
    large = select_weights(resnet20, SelectionRule(min_weights=36_864))
    assert len(large) == 5 and all(spec.num_weights == 36_864 for spec in large)
    hybrid = build('efficientformer_l1')
    assert 'stages.3.blocks.4.token_mixer.qkv.weight' in names_of(hybrid, generate=('*.qkv.*',))
    assert not any(name.endswith('.bias') for name in names_of(hybrid, generate=('*.qkv.*',)))


@pytest.mark.parametrize('option', ['generate', 'keep'])
@pytest.mark.parametrize('pattern', ['layer9.*', '*.bias'])
def test_a_pattern_that_names_nothing_is_refused(resnet20, option, pattern):
    with pytest.raises(TargetError, match=re.escape(f"--{option} '{pattern}' matches no weight of ResNet")):
        names_of(resnet20, **{option: (pattern,)})


def test_model_with_nothing_to_generate_is_refused():
    with pytest.raises(TargetError, match='has no weight to generate'):
        select_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(2048)))


def test_a_shared_weight_is_generated_once():
    shared = nn.Conv2d(32, 32, 3)
    tied = nn.Conv2d(32, 32, 3)
    tied.weight = shared.weight
    model = nn.ModuleDict({'a': shared, 'b': nn.Sequential(shared), 'c': tied})
    assert names_of(model) == ['a.weight']
    assert kept_names(named_state(model), ['a.weight']) == ['a.bias', 'c.bias']


@pytest.mark.parametrize('shape, token_size, tokens', [
    ((8, 4, 3, 3), 9, 32), ((8, 1, 5, 5), 25, 8), ((8, 4, 1, 7), 7, 32), ((8, 2, 11, 1), 11, 16),
    ((4, 3, 7, 7), 49, 12), ((4, 1, 31, 31), 31, 124), ((2, 3, 65, 1), 8, 50),
    ((8, 16, 1, 1), 8, 16), ((8, 12, 1, 1), 8, 16),
    ((5, 3), 8, 5),
    ((2, 100), 8, 26), ((4, 2, 3), 3, 8), ((2, 3, 2, 2, 2), 8, 6), ((1, 1, 1, 1), 8, 1),
])
def test_tokens_of_all_kinds_of_weights(shape, token_size, tokens):
    weight = torch.randn(shape)
    spec = WeightSpec('w', shape)
    assert (spec.token_size, spec.num_kernels, spec.num_weights) == (token_size, tokens, math.prod(shape))
    kernels = to_kernels(weight, spec)
    assert kernels.shape == (tokens, token_size)
    assert torch.equal(from_kernels(kernels, spec), weight)
    assert kernels.count_nonzero() == weight.count_nonzero()  # what is filled up is zero


def test_a_token_is_a_kernel_or_successive_channels():
    weight = torch.randn(6, 5, 3, 3)
    assert torch.equal(to_kernels(weight, WeightSpec('w', weight.shape))[9], weight[1, 4].flatten())
    weight = torch.randn(6, 16, 1, 1)
    assert torch.equal(to_kernels(weight, WeightSpec('w', weight.shape))[3], weight[1, 8:, 0, 0])
    assert torch.equal(to_kernels(weight, WeightSpec('w', weight.shape, 4))[3], weight[0, 12:, 0, 0])
    weight = torch.randn(3, 2, 31, 31)
    assert torch.equal(to_kernels(weight, WeightSpec('w', weight.shape))[2 * 31 + 4], weight[1, 0, 4])


def test_wrong_shapes_name_the_layer_and_both_shapes():
    spec = WeightSpec('stage.conv.weight', (4, 3, 3, 3))
    with pytest.raises(TargetError, match=r'stage\.conv\.weight.*\[4, 2, 3, 3\].*\[4, 3, 3, 3\]'):
        to_kernels(torch.zeros(4, 2, 3, 3), spec)
    with pytest.raises(TargetError, match='12 kernels of 9 values'):
        from_kernels(torch.zeros(11, 9), spec)


def test_specs_from_names_refuses_what_can_not_be_generated():
    tensor = torch.zeros(4, 4)
    state = {'fc.weight': tensor, 'tied.weight': tensor, 'fc.bias': torch.zeros(4), 'index': torch.zeros(4, 4).long()}
    assert specs_from_names(['fc.weight'], state, 'base', 2) == [WeightSpec('fc.weight', (4, 4), 2)]
    for name, says in (('conv.weight', "no weight 'conv.weight'"), ('tied.weight', "another name of 'fc.weight'"),
                       ('fc.bias', 'no weight of kernels'), ('index', 'no weight of kernels')):
        with pytest.raises(TargetError, match=says):
            specs_from_names([name], state, 'base')
