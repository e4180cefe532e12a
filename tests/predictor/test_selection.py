"""Which weights are generated and which are rounded, on real networks."""
import pytest
import timm
import torch
from torch import nn

from timm_sbs.common.config import OTHERS, SelectionRule
from timm_sbs.common.errors import TargetError
from timm_sbs.predictor.base_model import kept_names, named_state
from timm_sbs.predictor.selection import explain_selection, rounded_names, select_weights, specs_from_names
from timm_sbs.predictor.tokens import WeightSpec


def names_of(model, **rule):
    return [spec.name for spec in select_weights(model, SelectionRule(**rule))]


def build(name):
    with torch.device('meta'):
        return timm.create_model(name)


def test_resnet20_generates_all_but_stem_norms_and_classifier(resnet20):
    specs = select_weights(resnet20)
    assert len(specs) == 18 and sum(spec.num_weights for spec in specs) == 267_264
    assert [spec.name for spec in specs][:2] == ['layer1.0.conv1.weight', 'layer1.0.conv2.weight']
    kept = kept_names(named_state(resnet20), [spec.name for spec in specs])
    assert {'conv1.weight', 'bn1.running_var', 'linear.bias'} <= set(kept)
    assert not any(name.endswith('num_batches_tracked') for name in kept)


@pytest.mark.parametrize('name, generated, kept', [
    ('convnext_atto', ['stages.0.blocks.0.conv_dw.weight', 'stages.0.blocks.0.mlp.fc1.weight'],
     ['stem.0.weight', 'head.fc.weight', 'stages.0.blocks.0.conv_dw.bias']),
    ('efficientnet_cc_b0_4e', ['blocks.3.0.conv_pw.weight'], ['conv_stem.weight']),
    ('vit_tiny_patch16_224', ['blocks.0.attn.qkv.weight', 'blocks.11.mlp.fc2.weight'],
     ['pos_embed', 'patch_embed.proj.weight']),
    ('efficientformer_l1', ['stages.0.blocks.0.mlp.fc1.weight'],  # convolutions, and some attention
     ['stages.3.blocks.4.token_mixer.qkv.weight']),
    ('mobilevit_xxs', ['stages.2.1.conv_kxk.conv.weight', 'stages.2.1.transformer.0.attn.qkv.weight'], []),
    ('nf_regnet_b0', ['stages.0.0.conv1.weight'], ['stages.0.0.conv1.gain']),  # weight-standardized
])
def test_the_rule_on_real_networks(name, generated, kept):
    reasons = explain_selection(build(name))
    assert all(reasons[weight] == '' for weight in generated) and all(reasons[weight] for weight in kept)


def test_every_reason_is_given():
    reasons = explain_selection(build('efficientformer_l1'), SelectionRule(min_weights=20_000, keep=('stages.2.*',)))
    assert set(reasons.values()) == {
        '', 'stem', 'classifier', 'below 20000 weights', 'linear, in a network of convolutions with attention',
        'named by --keep', 'norms, biases and others'}


def test_rule_can_be_overruled_by_name(resnet20):
    names = names_of(resnet20, generate=('conv1.*',), keep=('layer1.*',))
    assert 'conv1.weight' in names and 'layer2.0.conv1.weight' in names
    assert not any(name.startswith('layer1') for name in names)
    names = names_of(build('efficientformer_l1'), generate=('*.qkv.*',))
    assert 'stages.3.blocks.4.token_mixer.qkv.weight' in names
    assert not any(name.endswith('.bias') for name in names)


@pytest.mark.parametrize('rule', [dict(generate=('layer9.*',)), dict(keep=('*.bias',))])
def test_a_pattern_that_names_nothing_is_refused(resnet20, rule):
    with pytest.raises(TargetError, match='matches no weight of ResNet'):
        names_of(resnet20, **rule)


def test_a_shared_weight_is_generated_once_and_a_model_with_none_is_refused():
    shared, tied = nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3)
    tied.weight = shared.weight
    model = nn.ModuleDict({'a': shared, 'b': nn.Sequential(shared), 'c': tied})
    assert names_of(model) == ['a.weight']
    assert kept_names(named_state(model), ['a.weight']) == ['a.bias', 'c.bias']
    with pytest.raises(TargetError, match='has no weight to generate'):
        select_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(2048)))


def test_names_of_a_config_must_be_weights_of_the_base_model():
    tensor = torch.zeros(4, 4)
    state = {'conv.weight': torch.zeros(2, 1, 3, 3), 'fc.weight': tensor, 'tied.weight': tensor,
             'fc.bias': torch.zeros(4), 'index': torch.zeros(4, 4).long()}
    assert specs_from_names(['fc.weight'], state, 'base') == [WeightSpec('fc.weight', (4, 4))]
    assert rounded_names([OTHERS], ['conv.weight'], state) == ['fc.weight']
    assert rounded_names(['fc.weight', 'conv.weight'], [], state) == ['conv.weight', 'fc.weight']
    for name, says in (('stem.weight', "no weight 'stem.weight'"), ('tied.weight', "values with 'fc.weight'"),
                       ('fc.bias', 'cannot be'), ('index', 'cannot be')):
        with pytest.raises(TargetError, match=says):
            specs_from_names([name], state, 'base')
        with pytest.raises(TargetError, match=says):
            rounded_names([name], [], state)
