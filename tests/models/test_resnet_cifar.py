import pytest
import timm
import torch
from conftest import RESNET20
from safetensors.torch import load_file

from timm_sbs import SbsError

NAMES = {'resnet20_cifar10': 0.27, 'resnet32_cifar10': 0.46, 'resnet44_cifar10': 0.66, 'resnet56_cifar10': 0.85,
         'resnet110_cifar10': 1.7}


def images(channels=3):
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('name, millions', NAMES.items())
def test_sizes_are_the_published_ones(name, millions):
    with torch.device('meta'):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.03)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == int(name.split('_')[0].removeprefix('resnet'))


def test_listed_with_the_published_weights():
    assert {f'{name}.akamaster' for name in NAMES} <= set(timm.list_models('resnet*_cifar10', pretrained=True))
    cfg = timm.get_pretrained_cfg('resnet56_cifar10')
    assert cfg.url.endswith('/resnet56-4bfd9763.th') and cfg.tag == 'akamaster' and cfg.license == 'bsd-2-clause'


def test_networks_for_100_classes_have_no_weights_and_else_the_same_layers():
    found, expected = timm.create_model('resnet20_cifar100'), timm.create_model('resnet20_cifar10', num_classes=100)
    assert {k: v.shape for k, v in found.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    assert found.pretrained_cfg['num_classes'] == 100 and not timm.list_models('resnet*_cifar100', pretrained=True)


def test_published_key_names_load(tmp_path):
    state = load_file(RESNET20)
    model = timm.create_model('resnet20_cifar10')
    model.load_state_dict(state)  # strict
    # as published: wrapped, and saved from a DataParallel model
    published = {'best_prec1': 91.73, 'state_dict': {f'module.{k}': v for k, v in state.items()}}
    torch.save(published, tmp_path / 'resnet20.th')
    overlay = dict(file=str(tmp_path / 'resnet20.th'))
    other = timm.create_model('resnet20_cifar10', pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in state.items())


def test_option_a_shortcut(resnet20):
    x = images()[:, :1].repeat(1, 16, 1, 1)
    y = resnet20.layer2[0].downsample(x)
    assert y.shape == (2, 32, 16, 16)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2]) and not y[:, :8].any() and not y[:, 24:].any()


def test_features_only_gives_what_the_stages_compute(resnet20):
    features = timm.create_model(
        'resnet20_cifar10', pretrained=True, pretrained_cfg_overlay=dict(file=str(RESNET20)), features_only=True,
        out_indices=(0, 3)).eval()
    maps = features(images())
    assert [m.shape for m in maps] == [(2, 16, 32, 32), (2, 64, 8, 8)]
    assert features.feature_info.reduction() == [1, 4] and features.feature_info.channels() == [16, 64]
    torch.testing.assert_close(maps[1], resnet20.forward_features(images()))


def test_forward_intermediates_and_pruning(resnet20):
    last, maps = resnet20.forward_intermediates(images(), indices=[1, 2])
    assert [m.shape[1] for m in maps] == [16, 32]
    torch.testing.assert_close(last, resnet20.forward_features(images()))
    early = resnet20.forward_intermediates(images(), indices=[1], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early[0], maps[0])
    model = timm.create_model('resnet20_cifar10')
    assert model.prune_intermediate_layers([2]) == [2]
    assert not len(model.layer3) and isinstance(model.linear, torch.nn.Identity) and model.num_features == 32
    assert model(images()).shape == (2, 32, 16, 16)
    model = timm.create_model('resnet20_cifar10')
    assert model.prune_intermediate_layers(1, prune_head=False) == [3] and model(images()).shape == (2, 10)
    last, maps = resnet20.forward_intermediates(images(), indices=[-1])
    assert len(maps) == 1 and torch.equal(maps[0], last)


def test_classifier_conveniences():
    model = timm.create_model('resnet20_cifar10', num_classes=7, in_chans=1, drop_rate=0.5).eval()
    assert model(images(1)).shape == (2, 7) and model.get_classifier() is model.linear
    model.reset_classifier(3)
    assert model(images(1)).shape == (2, 3)
    model.reset_classifier(0)
    assert model(images(1)).shape == (2, 64) == model.forward_head(model.forward_features(images(1))).shape
    model.reset_classifier(0, global_pool='')
    assert model(images(1)).shape == (2, 64, 8, 8)


def test_a_new_classifier_is_in_the_mode_of_the_model():
    for mode in (True, False):
        model = timm.create_model('resnet20_cifar10').train(mode)
        model.reset_classifier(5, 'max')
        assert {module.training for module in model.modules()} == {mode}


@pytest.mark.parametrize('args', [
    dict(drop_path_rate=0.1, act_layer='silu'), dict(norm_layer='groupnorm1'), dict(global_pool='catavgmax'),
    dict(layers=[1, 2, 3], channels=(8, 16, 32)), dict(block_args=dict(attn_layer='se'), zero_init_last=True),
    dict(drop_block_rate=0.1, drop_rate=0.5), dict(aa_layer=torch.nn.AvgPool2d, output_stride=32)])
def test_arguments_of_timms_resnet(args):
    model = timm.create_model('resnet20_cifar10', **args)
    assert model(images()).shape == (2, 10) and [m.shape[1] for m in model.forward_intermediates(images())[1]] == [
        info['num_chs'] for info in model.feature_info]


@pytest.mark.parametrize('output_stride, sizes', [(2, (32, 32, 16, 16)), (4, (32, 32, 16, 8)), (16, (32, 32, 16, 8))])
def test_output_stride(output_stride, sizes):
    model = timm.create_model('resnet20_cifar10', output_stride=output_stride)
    assert tuple(m.shape[-1] for m in model.forward_intermediates(images())[1]) == sizes
    assert tuple(32 // info['reduction'] for info in model.feature_info) == sizes


@pytest.mark.parametrize('args, said', [
    (dict(stem_type='deep'), 'stem_type'), (dict(avg_down=True), 'avg_down'), (dict(layers=(1, 1)), 'three stages'),
    (dict(output_stride=1), 'output_stride is 1')])
def test_arguments_of_what_it_does_not_have_are_refused(args, said):
    with pytest.raises(SbsError, match=said):
        timm.create_model('resnet20_cifar10', **args)


@pytest.mark.parametrize('args', [{}, dict(features_only=True)])
@pytest.mark.filterwarnings('ignore:.*deprecated')
def test_script(args):
    model = timm.create_model('resnet20_cifar10', **args).eval()
    for expected, found in zip(model(images()), torch.jit.script(model)(images())):
        torch.testing.assert_close(found, expected)


def test_gradient_checkpointing_changes_nothing():
    model = timm.create_model('resnet20_cifar10')
    x = images().requires_grad_()
    model(x).sum().backward()
    plain = model.layer1[0].conv1.weight.grad.clone()
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    torch.testing.assert_close(model.layer1[0].conv1.weight.grad, plain, rtol=1e-3, atol=1e-4)


def test_parameter_groups_cover_stem_blocks_and_head():
    from timm.models import group_parameters
    model = timm.create_model('resnet20_cifar10')
    groups = group_parameters(model, model.group_matcher())
    assert len(groups) == 1 + 9 + 1


def test_device_and_dtype_as_in_timms_models():
    model = timm.create_model('resnet20_cifar10', device='meta', dtype=torch.bfloat16)
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in model.parameters())
    model.reset_classifier(3)
    assert model.linear.weight.is_meta and model.linear.weight.dtype == torch.bfloat16
