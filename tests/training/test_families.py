"""Every family of CNNs in timm, and hybrids: fit, save, create, adapt. All but a few kinds are marked slow.

    pytest -m slow tests/training/test_families.py
"""
import pytest
import timm
import torch
from conftest import fit_quickly
from families import LARGE, LARGEST_PREDICTOR, QUICK, SMALL, TRANSFORMERS, slow_unless
from timm.layers import ScaledStdConv2d
from timm.models import build_model_with_cfg, generate_default_cfgs, list_modules, register_model
from torch import nn

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.training.design.sizing import design
from timm_sbs.training.settings import Target

NEEDS_COLOURS = {'csatv2'}  # its first layer transforms three colour planes
FAMILIES = [slow_unless(name in QUICK, name) for name in (*SMALL.values(), *LARGE.values())]


def modules_of_timm():
    """Its modules with models, without this package's and those of tests."""
    return {module for module in list_modules() if timm.list_models(module=module)
            and not module.startswith('test_')} - {'entries', 'resnet_cifar', 'resnet8'}


def test_no_family_is_forgotten():
    known = {*SMALL, *LARGE, *TRANSFORMERS}
    new = modules_of_timm() - known
    assert not new, f'timm {timm.__version__} has new families: choose a small model of each, or say why not'
    assert not (set(SMALL) & set(LARGE)) and set(SMALL.values()) > QUICK


def build_without_memory(name):
    try:
        with torch.device('meta'):
            return timm.create_model(name)
    except (RuntimeError, NotImplementedError):
        return timm.create_model(name)


@pytest.mark.parametrize('name', FAMILIES)
def test_pct_is_met_within_a_per_cent(name):
    original = build_without_memory(name)
    parameters = design(original, Target(pct=7.)).num_parameters
    budget = 0.07 * sum(p.numel() for p in original.parameters())
    assert 0.99 * budget <= parameters <= budget


def check(name, tmp_path, order_over='nothing'):
    torch.manual_seed(0)
    original = timm.create_model(name).requires_grad_(False).eval()
    pct = min(1., 100 * LARGEST_PREDICTOR / sum(p.numel() for p in original.parameters()))
    artifact = fit_quickly(
        original, steps=2, pct=pct, order_over=order_over, num_frequencies=8, linear_layers=3)
    artifact.save(tmp_path)
    state = load_artifact(tmp_path).state_dict()
    assert artifact.generator.names

    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert type(model) is type(original)
    found, expected = model.state_dict(), original.state_dict()
    assert list(found) == list(expected)
    for key, tensor in found.items():
        assert tensor.dtype == expected[key].dtype and tensor.shape == expected[key].shape, key
        assert torch.equal(tensor, state[key].to(tensor.dtype)), key
    kept = set(expected) - set(artifact.generator.names)
    assert all(torch.equal(found[key], expected[key]) for key in artifact.kept) and set(artifact.kept) <= kept

    images = torch.randn(1, *original.pretrained_cfg['input_size'])
    original.load_state_dict(state)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), original(images))
    del model, found

    with torch.inference_mode():
        in_chans = 3 if name in NEEDS_COLOURS else 1
        other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, in_chans=in_chans, num_classes=7).eval()
        logits = other(images[:, :in_chans])
        assert logits.shape == (1, 7) and logits.isfinite().all()
        ends = (original.pretrained_cfg[key] for key in ('classifier', 'first_conv'))
        adapted = tuple(n for names in ends for n in ([names] if isinstance(names, str) else names or ()))
        own = other.state_dict()
        for key in artifact.generator.names:
            if key in own and not key.startswith(adapted):
                assert torch.equal(own[key], state[key]), key
    del other, own

    try:
        base = timm.create_model(name, features_only=True).eval()
    except (RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError):
        return  # the base has no features
    features = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, features_only=True).eval()
    assert features.feature_info.channels() == base.feature_info.channels()
    assert list(features.state_dict()) == list(base.state_dict())
    with torch.inference_mode():
        assert [m.shape for m in features(images)] == [m.shape for m in base(images)]


class Oddities(nn.Module):
    """What no small network of timm has together."""

    def __init__(self, num_classes=10, in_chans=3):
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(in_chans, 32, 3, padding=1)
        self.huge = nn.Conv2d(32, 32, 31, padding=15, groups=32)
        self.dilated = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(32, 64, 5, padding=2, groups=4)
        self.wide = nn.Conv2d(64, 32, (1, 11), padding=(0, 5), bias=False)
        self.standardized = ScaledStdConv2d(32, 32, 3, padding=1)
        self.shared = nn.ModuleList([nn.Conv2d(32, 36, 1), nn.Conv2d(36, 32, 1)] * 2)
        self.first, self.second = nn.Linear(32, 64), nn.Linear(32, 64)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.dilated(self.huge(self.stem(x)))
        x = self.standardized(self.wide(self.grouped(x)))
        for convolution in self.shared:
            x = convolution(x)
        x = x.mean((2, 3))
        return self.fc(self.first(x) + self.second(x))


default_cfgs = generate_default_cfgs({
    'oddities': dict(input_size=(3, 40, 40), num_classes=10, first_conv='stem', classifier='fc')})


@register_model
def oddities(pretrained=False, **kwargs):
    return build_model_with_cfg(Oddities, 'oddities', pretrained, **kwargs)


@pytest.mark.parametrize('order_over', ['layer', 'filter', 'axes', 'nothing'])
def test_all_that_convolutions_come_in(order_over, tmp_path):
    check('oddities', tmp_path, order_over)
    artifact = load_artifact(tmp_path)
    assert {spec.name: spec.token_size for spec in artifact.generator.specs} == {
        'huge.weight': 31, 'dilated.weight': 9, 'grouped.weight': 25, 'wide.weight': 11, 'standardized.weight': 9,
        'shared.0.weight': 8, 'shared.1.weight': 8, 'first.weight': 8}
    assert 'shared.2.weight' not in artifact.kept and 'second.weight' not in artifact.kept


@pytest.mark.parametrize('name', FAMILIES)
def test_families(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.parametrize('name, order_over', [
    slow_unless((name, order_over) in {('test_convnext', 'axes'), ('test_efficientnet', 'filter')}, name, order_over)
    for name in ('test_byobnet', 'test_convnext', 'test_efficientnet', 'test_resnet')
    for order_over in ('layer', 'filter', 'axes')])
def test_every_order_over(name, order_over, tmp_path):
    check(name, tmp_path, order_over)
