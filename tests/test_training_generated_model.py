import copy

import pytest
import torch
from accelerate import Accelerator
from conftest import student_of

from timm_sbs import generate
from timm_sbs.training import weight_generator
from timm_sbs.training.generated_model import GeneratedModel


@pytest.fixture(scope='module')
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture()
def student(resnet20):
    return student_of(resnet20)


def test_forward_is_that_of_the_materialized_model(student, images, accelerator):
    student.eval()
    logits = student(images[0][:8], student.generate(accelerator))
    plain = copy.deepcopy(student.materialize())
    torch.testing.assert_close(plain(images[0][:8]), logits, rtol=1e-2, atol=2e-2)  # stored in float16


def test_two_stages_give_the_gradient_of_the_whole(student, images, accelerator):
    """Against autograd through generation and network in one graph."""
    student.eval()
    whole = copy.deepcopy(student)
    weights = {}
    for index, group in enumerate(whole.plan.groups):
        kernels = whole.predictor(whole.plan.features(group), group.token_size)
        weights.update(generate.split_weights(kernels, group.specs, group.place_of_kernel))
    whole(images[0][:8], weights).square().mean().backward()

    leaves = student.generate(accelerator)
    for half in images[0][:8].split(4):  # two batches of one step
        accelerator.backward(student(half, leaves).square().mean() / 2)
    student.backward(leaves, accelerator)
    for (name, parameter), expected in zip(student.named_parameters(), whole.parameters()):
        if expected.grad is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_blocks_change_nothing(student, images, accelerator, monkeypatch):
    def gradients():
        student.zero_grad()
        weights = student.generate(accelerator)
        student(images[0][:4], weights).square().mean().backward()
        student.backward(weights, accelerator)
        return [p.grad.clone() for p in student.predictor.parameters()]

    student.eval()
    expected = gradients()
    monkeypatch.setattr(weight_generator, 'BLOCK', 777)
    for gradient, other in zip(gradients(), expected):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


def test_generated_weights_of_the_base_are_no_parameters_of_their_own(student):
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert 'model.layer1.0.conv1.weight' not in trained
    assert {'model.bn1.weight', 'model.linear.bias', 'model.conv1.weight', 'predictor.trunk.0.weight'} <= trained
    assert 'layer1.0.conv1.weight' not in student.kept_state() and 'bn1.running_mean' in student.kept_state()


@pytest.mark.parametrize('parts, trained', [
    ((), set()), (('stem',), {'conv1.weight'}), (('classifier',), {'linear.weight', 'linear.bias'})])
def test_kept_parts_are_trained_as_asked(student, parts, trained):
    again = GeneratedModel(student.predictor, student.plan, student.model, parts)
    assert {name for name, p in again.model.named_parameters() if p.requires_grad} == trained
    again.train()
    assert not again.model.bn1.training and again.model.training
    assert GeneratedModel(student.predictor, student.plan, student.model).train().model.bn1.training
