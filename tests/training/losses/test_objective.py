"""The loss of distillation: the sum of its parts, and feature maps."""
import pytest
import torch
from conftest import student_of

from timm_sbs.common.errors import SbsError
from timm_sbs.data.outputs import ClassOutputs
from timm_sbs.training.losses.distillation import distillation_loss, feature_modules
from timm_sbs.training.phase_settings import Distillation

FEATURES = ['act1', 'layer1', 'layer2', 'layer3']


@pytest.fixture(scope='module')
def batch(images):
    return images[0][:8]


@pytest.fixture(scope='module')
def student(small_model):
    return student_of(small_model).eval()


@pytest.fixture(scope='module')
def weights(student):
    return student.generate()


def test_the_sum_of_its_parts(small_model, student, weights, batch):
    models, maps = (student.model, small_model), ([], [])
    hooks = [model.get_submodule(name).register_forward_hook(lambda *given, found=found: found.append(given[-1]))
             for model, found in zip(models, maps) for name in FEATURES]
    divergence = ClassOutputs(10).distillation_loss(student(batch, weights), small_model(batch), 3.)
    for hook in hooks:
        hook.remove()
    errors = [(a - b).square().sum() / b.square().sum() for a, b in zip(*maps)]
    loss = distillation_loss(student, small_model, batch, weights, Distillation(temperature=3., feature_weight=2.))
    torch.testing.assert_close(loss, divergence + 2 * sum(errors) / 4)
    plain = distillation_loss(student, small_model, batch, weights, Distillation(temperature=3.))
    torch.testing.assert_close(plain, divergence)
    assert not any(m._forward_hooks for model in models for m in model.modules())


def test_equal_networks_have_no_loss(small_model, student, batch):
    originals = {name: small_model.get_parameter(name) for name in student.generator.names}
    loss = distillation_loss(student, small_model, batch, originals, Distillation(feature_weight=1.))
    assert loss.item() == pytest.approx(0., abs=1e-6)


def test_feature_modules(small_model):
    assert feature_modules(small_model) == FEATURES
    with pytest.raises(SbsError, match='timm does not say where the feature maps of Sequential come from'):
        feature_modules(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)))
