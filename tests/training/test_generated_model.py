import copy

import pytest
import torch
from accelerate import Accelerator
from conftest import student_of
from torch.nn import functional

from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import stored_predictor
from timm_sbs.common.config import GeneratorConfig, QuantizationConfig, StorageConfig
from timm_sbs.predictor.generator import Generator, split_weights
from timm_sbs.training.options.settings import KEPT_PARTS
from timm_sbs.training.steps import two_stage
from timm_sbs.training.steps.generated_model import GeneratedModel


@pytest.fixture(scope='module')
def accelerator():
    return Accelerator(cpu=True)


def no_generator():
    """Of a network whose weights are all rounded."""
    return Generator.fresh(GeneratorConfig(), (), (), seed=0)


@pytest.fixture()
def student(resnet20):
    return student_of(resnet20)


def test_forward_is_that_of_the_materialized_model(student, images, accelerator):
    student.eval()
    logits = student(images[0][:8], student.generate(accelerator))
    plain = copy.deepcopy(student.materialize())
    torch.testing.assert_close(plain(images[0][:8]), logits, rtol=1e-2, atol=2e-2)  # stored in float16


@pytest.mark.parametrize('training, train_kept', [
    (False, KEPT_PARTS), (False, ()), (True, ('norm', 'classifier')), (True, ())])
def test_rounded_forward_is_that_of_the_rounded_network(resnet20, images, training, train_kept):
    """Kept tensors that are not trained are rounded too: what is seen in training is what will be read."""
    storage = StorageConfig(quantization=QuantizationConfig((5.,) * 5, kept_bits=5))
    student = student_of(resnet20, storage, train_kept=train_kept).train(training)
    weights = student.generator.with_predictor(stored_predictor(student.predictor, storage))()
    with torch.no_grad():
        logits = student(images[0][:8], weights)
        torch.testing.assert_close(logits, student.materialize().eval()(images[0][:8]), rtol=1e-4, atol=1e-4)
        student.quantization = None
        assert (student(images[0][:8], weights) - logits).norm() > 0.02 * logits.norm()


def test_rounded_training_follows_the_statistics_of_batches_unrounded(resnet20, images):
    storage = StorageConfig(quantization=QuantizationConfig((5.,) * 5, kept_bits=5))
    student, first = student_of(resnet20, storage).train(), images[0][:50]
    model = student.model
    weights, before = dict(student.generator()), model.bn1.running_mean.clone()
    student(first, weights)
    rounded = stored_kept({'conv1.weight': model.conv1.weight}, storage)['conv1.weight']
    stem = functional.conv2d(first, rounded, padding=1)
    expected = torch.lerp(before, stem.mean((0, 2, 3)), model.bn1.momentum)
    torch.testing.assert_close(model.bn1.running_mean, expected.detach(), rtol=1e-4, atol=1e-5)
    assert all(int(counter) == int(student_of(resnet20).model.state_dict()[name]) + 1
               for name, counter in model.state_dict().items() if name.endswith('num_batches_tracked'))


@pytest.mark.parametrize('keeps', [False, True])
def test_two_stages_give_the_gradient_of_the_whole(student, images, accelerator, monkeypatch, keeps):
    """Against autograd through generation and network in one graph, also as on a GPU, where activations are kept."""
    monkeypatch.setattr(GeneratedModel, '_keeps_activations', lambda *_: keeps)
    student.eval()
    whole = copy.deepcopy(student)
    weights = {}
    for group in whole.generator.groups:
        kernels = whole.predictor(whole.generator.features(group), group.token_size)
        weights.update(split_weights(kernels, group.specs, group.place_of_kernel, whole.generator.scales))
    whole(images[0][:8], weights).square().mean().backward()

    leaves = student.generate(accelerator)
    for half in images[0][:8].split(4):  # two batches of one step
        accelerator.backward(student(half, leaves).square().mean() / 2)
    student.backward(leaves, accelerator)
    for (name, parameter), expected in zip(student.named_parameters(), whole.parameters()):
        if expected.grad is None:
            assert parameter.grad is None, name
        else:
            size = float(expected.grad.abs().max())
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize('keeps', [False, True])
@pytest.mark.parametrize('bits', [None, 5.])
def test_blocks_change_nothing(resnet20, images, accelerator, monkeypatch, keeps, bits):
    storage = StorageConfig(quantization=QuantizationConfig((bits,) * 5) if bits else None)
    student = student_of(resnet20, storage)

    def gradients():
        student.zero_grad()
        weights = student.generate(accelerator)
        student(images[0][:4], weights).square().mean().backward()
        student.backward(weights, accelerator)
        return [p.grad.clone() for p in student.predictor.parameters()]

    student.eval()
    expected = gradients()
    monkeypatch.setattr(two_stage, 'BLOCK', 777)
    monkeypatch.setattr(GeneratedModel, '_keeps_activations', lambda *_: keeps)
    for gradient, other in zip(gradients(), expected):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('keeps', [False, True])
def test_a_process_without_a_place_has_no_part_in_the_gradient(student, accelerator, monkeypatch, keeps):
    """Of four places, three processes have two, two and none."""
    monkeypatch.setattr(GeneratedModel, '_keeps_activations', lambda *_: keeps)
    monkeypatch.setattr(two_stage, 'share', lambda count, _: slice(count, count))
    monkeypatch.setattr(two_stage, 'gather_shares', lambda rows, count, _: torch.cat([rows, rows.new_ones(count, 9)]))
    weights = student.generate(accelerator)
    student.backward(weights, accelerator)
    assert all(p.grad is None for p in student.predictor.parameters())


def test_generated_weights_of_the_base_are_no_parameters_of_their_own(student):
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert 'model.layer1.0.conv1.weight' not in trained
    assert {'model.bn1.weight', 'model.linear.bias', 'model.conv1.weight'} <= trained
    assert 'generator.predictor.trunk.0.weight' in trained
    assert 'layer1.0.conv1.weight' not in student.kept_state() and 'bn1.running_mean' in student.kept_state()


@pytest.mark.parametrize('parts, trained', [
    ((), set()), (('stem',), {'conv1.weight'}), (('classifier',), {'linear.weight', 'linear.bias'})])
def test_kept_parts_are_trained_as_asked(student, parts, trained):
    again = GeneratedModel(student.generator, student.model, train_kept=parts)
    assert {name for name, p in again.model.named_parameters() if p.requires_grad} == trained
    again.train()
    assert not again.model.bn1.training and again.model.training
    assert GeneratedModel(student.generator, student.model).train().model.bn1.training


class Tied(torch.nn.Module):
    """One module under two names, and one tensor in two modules."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = (torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
        self.again = self.norm
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.again(self.second(self.norm(self.first(x))))


def test_modules_and_tensors_under_two_names_are_trained_once(accelerator):
    torch.manual_seed(0)
    model = Tied().eval()
    rounded = {'first.weight': model.first.weight.detach().clone()}
    steps = {'rounded.first.weight': torch.tensor(-64, dtype=torch.int32)}
    student = GeneratedModel(
        no_generator(), copy.deepcopy(model), StorageConfig(quantization=QuantizationConfig(kept_bits=12)),
        rounded_weights=rounded, steps=steps)
    student.train()
    batch = torch.randn(8, 4)
    for _ in range(2):  # what a pass has put in place must be gone in the next
        student.zero_grad()
        student(batch, {}).square().sum().backward()
    assert student.model.first.weight is student.model.second.weight
    assert student.model.norm.weight.is_leaf and student.model.first.weight.grad is not None
    with torch.no_grad():  # both uses of a shared tensor are rounded
        student.eval()
        student.model.first.weight.add_(2. ** -6)
        assert torch.equal(student(batch, {}), student.materialize()(batch))
