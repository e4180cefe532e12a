import copy

import pytest
import torch
from accelerate import Accelerator
from conftest import student_of
from torch.utils.data import TensorDataset

from timm_sbs.common.errors import SbsError
from timm_sbs.data.batches import SampleBatches
from timm_sbs.data.outputs import ClassOutputs
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.steps import distillation
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.monitor import Monitor


@pytest.fixture()
def student(resnet20):
    return student_of(resnet20)


@pytest.fixture()
def batches(images):
    return SampleBatches(TensorDataset(*images), 20, 0, seed=0)


class Notes(Monitor):
    def __init__(self):
        self.measured, self.done, self.logged = [], [], {}

    def log(self, step, metrics):
        self.logged[step] = metrics

    def measure(self, step):
        self.measured.append(step)

    def step_done(self, step):
        self.done.append(step)


def test_a_few_steps_bring_the_student_closer(student, resnet20, images, batches):
    original = copy.deepcopy(resnet20)
    before_original = {k: v.clone() for k, v in original.state_dict().items()}
    some = images[0][:100]

    def loss_now():
        with torch.no_grad():
            return float(ClassOutputs(10).distillation_loss(student.materialize().eval()(some), original(some), 2.))

    before = loss_now()
    variance = student.model.bn1.running_var.clone()
    settings = DistillationSettings(steps=12, lr=1e-3, eval_interval=5)
    notes = Notes()
    distill(student, original, batches, settings, Accelerator(cpu=True), notes)
    assert notes.measured == [5, 10, 12] and notes.done == list(range(1, 13))
    assert list(notes.logged) == [5, 10, 12] and notes.logged[12]['lr'] == settings.lr_at(11)
    assert loss_now() < 0.6 * before
    assert not torch.equal(student.model.bn1.running_var, variance)  # statistics follow the data
    assert all(torch.equal(v, before_original[k]) for k, v in original.state_dict().items())


def test_two_half_batches_of_a_step_are_one_batch(resnet20, images):
    results = []
    for batch_size, accumulate in ((20, 1), (10, 2)):
        student = student_of(resnet20)
        # without BatchNorm's statistics of a batch, halves add up to the whole
        student.train_kept = ('norm',)
        settings = DistillationSettings(steps=3, lr=1e-3, grad_accum_steps=accumulate)
        distill(student, copy.deepcopy(resnet20), SampleBatches(TensorDataset(*images), batch_size, 0, seed=0),
                settings, Accelerator(cpu=True))
        results.append(torch.cat([p.detach().flatten() for p in student.predictor.parameters()]))
    # Adam turns the rounding of a gradient that is nearly 0 into a step, so that single numbers may differ
    start = torch.cat([p.detach().flatten() for p in student_of(resnet20).predictor.parameters()])
    assert (results[0] - results[1]).norm() < 1e-2 * (results[0] - start).norm()


def test_frozen_statistics_stay_and_frozen_parameters_too(resnet20, batches):
    student = student_of(resnet20, train_kept=('classifier',))
    before = {name: tensor.clone() for name, tensor in student.kept_state().items()}
    distill(student, copy.deepcopy(resnet20), batches, DistillationSettings(steps=2), Accelerator(cpu=True))
    changed = {name for name, tensor in student.kept_state().items() if not torch.equal(tensor, before[name])}
    assert changed == {'linear.weight', 'linear.bias'}


@pytest.mark.parametrize('steps', [2, 6])
def test_divergence_is_one_sentence(student, resnet20, batches, monkeypatch, steps):
    monkeypatch.setattr(distillation, 'LOG_INTERVAL', 4)
    with torch.no_grad():
        student.predictor.heads['9'].bias.fill_(float('nan'))
    with pytest.raises(SbsError, match=f'is nan at step {min(steps, 4)}. Lower its learning rate'):
        distill(student, resnet20, batches, DistillationSettings(steps=steps, eval_interval=30), Accelerator(cpu=True))
