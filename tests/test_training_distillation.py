import copy

import pytest
import timm
import torch
from accelerate import Accelerator
from conftest import RESNET20
from torch.utils.data import DataLoader, TensorDataset

from timm_sbs.demo import demo_batches, load_demo_images
from timm_sbs.errors import SbsError
from timm_sbs.training.distillation import distill
from timm_sbs.training.fit import design, find_orderings, start_fit
from timm_sbs.training.generated_model import GeneratedModel
from timm_sbs.training.losses import distillation_loss
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.settings import DistillationSettings, ReconstructionSettings


@pytest.fixture(scope='module')
def images():
    cfg = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
    batches = list(demo_batches(load_demo_images(), cfg))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.fixture()
def student(resnet20):
    config, cfg, specs = design(resnet20, pct=20.)
    fit = start_fit(config, cfg, specs, find_orderings(resnet20, specs, config.ordering), seed=0)
    reconstruct(fit.predictor, fit.plan, resnet20.state_dict(), ReconstructionSettings(steps=100))
    return GeneratedModel(fit.predictor, fit.plan, timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20))


def test_forward_is_that_of_the_materialized_model(student, images):
    student.eval()
    logits = student(images[0][:8])
    plain = copy.deepcopy(student.materialize())
    torch.testing.assert_close(plain(images[0][:8]), logits, rtol=1e-2, atol=2e-2)  # stored in float16


def test_gradient_of_the_loss_is_that_of_finite_differences(student, images):
    student.eval()
    parameter = student.predictor.heads['9'].bias
    loss = student(images[0][:8]).square().mean()
    loss.backward()
    step = torch.zeros_like(parameter)
    step[4] = 1e-2
    with torch.no_grad():
        parameter.add_(step)
        up = student(images[0][:8]).square().mean()
        parameter.sub_(2 * step)
        down = student(images[0][:8]).square().mean()
    assert float(up - down) / 2e-2 == pytest.approx(float(parameter.grad[4]), rel=0.05)


def test_generated_weights_of_the_base_are_no_parameters_of_their_own(student):
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert 'model.layer1.0.conv1.weight' not in trained
    assert {'model.bn1.weight', 'model.linear.bias', 'predictor.trunk.0.weight'} <= trained


def test_a_few_steps_bring_the_student_closer(student, resnet20, images):
    original = copy.deepcopy(resnet20)
    teacher_before = {k: v.clone() for k, v in original.state_dict().items()}
    loader = DataLoader(TensorDataset(*images), batch_size=100, shuffle=True)
    seen = []

    def loss_now():
        with torch.no_grad():
            return float(distillation_loss(student.materialize().eval()(images[0]), original(images[0]), 2.))

    before = loss_now()
    variance = student.model.bn1.running_var.clone()
    settings = DistillationSettings(steps=12, lr=1e-3, eval_interval=5)
    distill(student, original, loader, settings, Accelerator(cpu=True), seen.append)
    assert seen == [5, 10, 12]
    assert loss_now() < 0.5 * before
    assert not torch.equal(student.model.bn1.running_var, variance)  # statistics follow the data
    assert all(torch.equal(v, teacher_before[k]) for k, v in original.state_dict().items())


def test_divergence_is_one_sentence(student, resnet20, images):
    loader = DataLoader(TensorDataset(*images), batch_size=50)
    with torch.no_grad():
        student.predictor.heads['9'].bias.fill_(float('nan'))
    with pytest.raises(SbsError, match='loss is nan at step 2. Lower --lr'):
        distill(student, resnet20, loader, DistillationSettings(steps=2), Accelerator(cpu=True), lambda step: None)
