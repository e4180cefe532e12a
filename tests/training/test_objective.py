import copy

import pytest
import torch
from accelerate import Accelerator
from conftest import student_of
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from timm_sbs.common.errors import SbsError
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.batches import SampleBatches
from timm_sbs.data.outputs import ClassOutputs
from timm_sbs.training.losses.distances import feature_loss
from timm_sbs.training.losses.feature_maps import FeatureMaps, feature_modules
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.steps.objective import Objective, original_outputs


@pytest.fixture(scope='module')
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope='module')
def batch(images):
    return images[0][:8], images[1][:8], torch.arange(8)


def test_the_sum_of_its_parts(resnet20, batch, accelerator):
    student = student_of(resnet20).eval()
    weights = student.generate(accelerator)
    logits, original_logits = student(batch[0], weights), resnet20(batch[0])
    names = ['act1', 'layer1', 'layer2', 'layer3']
    maps = FeatureMaps(student.model, names), FeatureMaps(resnet20, names)
    student(batch[0], weights), resnet20(batch[0])
    features = feature_loss(*(m.take() for m in maps))
    for m in maps:
        m.close()
    divergence = ClassOutputs(10).distillation_loss(logits, original_logits, 3.)
    labels = F.cross_entropy(logits, batch[1])
    expected = 0.5 * divergence + 2 * features + 0.1 * labels
    settings = DistillationSettings(
        temperature=3., output_weight=(0.5, 0.), feature_weight=(2., 0.), label_weight=(0.1, 1e-9))
    objective = Objective(student, resnet20, settings, accelerator)
    torch.testing.assert_close(objective(batch, weights, 0), expected)
    assert objective(batch, weights, settings.steps - 1).item() == pytest.approx(0., abs=1e-6)
    objective.close()
    assert not any(m._forward_hooks for model in (student.model, resnet20) for m in model.modules())


def test_equal_networks_have_no_loss(resnet20, batch, accelerator):
    student = student_of(resnet20).eval()
    weights = {name: resnet20.get_parameter(name) for name in student.generator.names}
    objective = Objective(student, resnet20, DistillationSettings(feature_weight=(1., 1.)), accelerator)
    assert objective(batch, weights, 0).item() == pytest.approx(0., abs=1e-6)
    objective.close()


def test_a_measurement_between_two_steps_changes_no_loss(resnet20, batch, accelerator):
    student = student_of(resnet20).eval()
    weights = student.generate(accelerator)
    objective = Objective(student, resnet20, DistillationSettings(feature_weight=(1., 1.)), accelerator)
    expected = objective(batch, weights, 0)
    for model in (student.model, resnet20):
        evaluate(model, [(batch[0][:5], batch[1][:5])])
    assert torch.equal(objective(batch, weights, 0), expected)
    objective.close()


def test_cached_outputs_replace_the_original(resnet20, images, batch, accelerator):
    student = student_of(resnet20).eval()
    weights = student.generate(accelerator)
    batches = SampleBatches(TensorDataset(*images), 64, 0, seed=0)
    cached = original_outputs(resnet20, batches.in_order(), len(images[0]), accelerator)
    torch.testing.assert_close(cached, resnet20(images[0]), rtol=1e-4, atol=1e-4)
    settings = DistillationSettings()
    expected = Objective(student, resnet20, settings, accelerator)(batch, weights, 0)
    gone = Objective(student, None, settings, accelerator, cached)
    torch.testing.assert_close(gone(batch, weights, 0), expected, rtol=1e-4, atol=1e-6)
    moved = (batch[0], batch[1], batch[2] + 250)  # of another class
    assert not torch.allclose(gone(moved, weights, 0), expected, rtol=0.2)


def test_feature_modules(resnet20):
    assert feature_modules(resnet20) == ['act1', 'layer1', 'layer2', 'layer3']
    assert feature_modules(resnet20, ['layer2.0']) == ['layer2.0']
    with pytest.raises(SbsError, match="no module 'layer9'"):
        feature_modules(resnet20, ['layer9'])
    with pytest.raises(SbsError, match='Name modules with --feature-modules'):
        feature_modules(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)))


def test_feature_maps_are_those_of_the_last_pass(resnet20, images):
    maps = FeatureMaps(resnet20, ['layer1', 'layer3'])
    resnet20(images[0][:2])
    assert [tuple(m.shape) for m in maps.take()] == [(2, 16, 32, 32), (2, 64, 8, 8)]
    assert maps.take() == []
    maps.close()
    copy.deepcopy(resnet20)(images[0][:2])
    assert maps.take() == []
