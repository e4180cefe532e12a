import timm
import torch

from timm_sbs.training.steps.kept import kept_parameters, part_of_parameters, set_statistics_mode


def test_every_parameter_has_a_part(resnet20):
    parts = part_of_parameters(resnet20)
    assert set(parts) == {name for name, _ in resnet20.named_parameters()}
    assert parts['conv1.weight'] == 'stem' and parts['linear.bias'] == 'classifier'
    assert parts['layer2.1.bn1.weight'] == 'norm' and parts['layer2.1.conv1.weight'] == 'other'


def test_timms_own_norms_and_names_are_known():
    with torch.device('meta'):
        parts = part_of_parameters(timm.create_model('efficientnet_lite0'))
        assert parts['blocks.0.0.bn1.weight'] == 'norm'  # BatchNormAct2d
        assert parts['conv_stem.weight'] == 'stem' and parts['classifier.bias'] == 'classifier'
        parts = part_of_parameters(timm.create_model('convnext_atto'))
    assert parts['stages.0.blocks.0.norm.weight'] == 'norm' and parts['stem.0.weight'] == 'stem'


def test_generated_weights_are_never_kept(resnet20):
    kept = kept_parameters(resnet20, ['layer1.0.conv1.weight'], ('other', 'stem'))
    assert 'layer1.0.conv1.weight' not in kept and 'layer1.0.conv2.weight' in kept and 'conv1.weight' in kept
    assert kept_parameters(resnet20, [], ()) == {}


def test_statistics_mode_touches_batch_norm_alone():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()).train()
    set_statistics_mode(model, training=False)
    assert not model[0].training and model[1].training
