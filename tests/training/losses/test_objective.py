"""The loss of distillation: the sum of its parts, and feature maps."""
import pytest
import torch
from conftest import student_of
from torch.nn import functional as F

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.errors import SbsError
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.outputs import ClassOutputs
from timm_sbs.training.losses.distillation import Objective, feature_loss
from timm_sbs.training.losses.feature_maps import FeatureMaps, feature_modules
from timm_sbs.training.phase_settings import Distillation

CPU = make_accelerator('no', cpu=True)
FEATURES = ['act1', 'layer1', 'layer2', 'layer3']


@pytest.fixture(scope='module')
def batch(images):
    return images[0][:8], images[1][:8]


@pytest.fixture(scope='module')
def student(small_model):
    return student_of(small_model).eval()


@pytest.fixture(scope='module')
def weights(student):
    return student.generate(CPU)


def test_the_sum_of_its_parts(small_model, student, weights, batch):
    logits, original_logits = student(batch[0], weights), small_model(batch[0])
    maps = FeatureMaps(student.model, FEATURES), FeatureMaps(small_model, FEATURES)
    student(batch[0], weights), small_model(batch[0])
    features = feature_loss(*(m.take() for m in maps))
    for m in maps:
        m.close()
    divergence = ClassOutputs(10).distillation_loss(logits, original_logits, 3.)
    expected = 0.5 * divergence + 2 * features + 0.1 * F.cross_entropy(logits, batch[1])
    settings = Distillation(
        temperature=3., output_weight=(0.5, 0.), feature_weight=(2., 0.), label_weight=(0.1, 1e-9))
    objective = Objective(student, small_model, settings, CPU)
    torch.testing.assert_close(objective(*batch, weights, 0), expected)
    assert objective(*batch, weights, settings.steps - 1).item() == pytest.approx(0., abs=1e-6)
    objective.close()
    assert not any(m._forward_hooks for model in (student.model, small_model) for m in model.modules())


def test_equal_networks_have_no_loss_and_a_measurement_between_two_steps_changes_none(
        small_model, student, weights, batch):
    objective = Objective(student, small_model, Distillation(feature_weight=(1.,)), CPU)
    expected = objective(*batch, weights, 0)
    for model in (student.model, small_model):
        evaluate(model, [(batch[0][:5], batch[1][:5])])
    assert torch.equal(objective(*batch, weights, 0), expected)
    originals = {name: small_model.get_parameter(name) for name in student.generator.names}
    assert objective(*batch, originals, 0).item() == pytest.approx(0., abs=1e-6)
    objective.close()


def test_feature_modules(small_model, images):
    assert feature_modules(small_model) == FEATURES
    assert feature_modules(small_model, ['layer2.0']) == ['layer2.0']
    with pytest.raises(SbsError, match="no module 'layer9'"):
        feature_modules(small_model, ['layer9'])
    with pytest.raises(SbsError, match='timm does not say where the feature maps of Sequential come from'):
        feature_modules(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)))
    maps = FeatureMaps(small_model, ['layer1', 'layer3'])
    small_model(images[0][:2])
    assert [tuple(m.shape) for m in maps.take()] == [(2, 16, 32, 32), (2, 64, 8, 8)] and maps.take() == []
    maps.close()
