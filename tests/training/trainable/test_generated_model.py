"""The network around a predictor in training: what it computes, and the gradients of its two stages."""
import copy

import pytest
import torch
from conftest import started, student_of
from torch.nn import functional

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import stored_predictor
from timm_sbs.common.config import GeneratorConfig, QuantizationConfig, StorageConfig
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.predictor.base_model import kept_names, norm_eps
from timm_sbs.predictor.generator import Generator, split_weights
from timm_sbs.training.loop import trained_state
from timm_sbs.training.trainable import two_stage
from timm_sbs.training.trainable.generated_model import GeneratedModel


@pytest.fixture(scope='module')
def accelerator():
    return make_accelerator('no', cpu=True)


@pytest.fixture()
def student(small_model):
    return student_of(small_model)


def test_forward_is_that_of_the_base_with_generated_weights(student, images):
    student.eval()
    plain = copy.deepcopy(student.model)
    plain.load_state_dict(student.generator(), strict=False)
    torch.testing.assert_close(student(images[0][:8], student.generate()), plain(images[0][:8]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('training', [False, True])
def test_rounded_forward_is_that_of_the_rounded_network(small_model, images, training):
    """Stored tensors are rounded too: what is seen in training is what will be read."""
    storage = StorageConfig(quantization=QuantizationConfig((5.,) * 5, kept_bits=5))
    student = student_of(small_model, storage, follows_statistics=False).train(training)
    weights = student.generator.with_predictor(stored_predictor(student.predictor, storage))()
    plain, state = copy.deepcopy(student.model).eval(), student.model.state_dict()
    kept = {name: state[name] for name in kept_names(state, student.generator.names)}
    plain.load_state_dict({**weights, **stored_kept(kept, storage, norm_eps(plain))}, strict=False)
    with torch.no_grad():
        logits = student(images[0][:8], weights)
        torch.testing.assert_close(logits, plain(images[0][:8]), rtol=1e-4, atol=1e-4)
        student.storage = StorageConfig()
        assert (student(images[0][:8], weights) - logits).norm() > 0.02 * logits.norm()


def test_rounded_training_follows_the_statistics_of_batches_unrounded(small_model, images):
    storage = StorageConfig(quantization=QuantizationConfig((5.,) * 5, kept_bits=5))
    student, first = student_of(small_model, storage).train(), images[0][:50]
    model = student.model
    weights, before = dict(student.generator()), model.bn1.running_mean.clone()
    student(first, weights)
    rounded = stored_kept({'conv1.weight': model.conv1.weight}, storage)['conv1.weight']
    stem = functional.conv2d(first, rounded, padding=1)
    expected = torch.lerp(before, stem.mean((0, 2, 3)), model.bn1.momentum)
    torch.testing.assert_close(model.bn1.running_mean, expected.detach(), rtol=1e-4, atol=1e-5)
    assert all(int(counter) == int(student_of(small_model).model.state_dict()[name]) + 1
               for name, counter in model.state_dict().items() if name.endswith('num_batches_tracked'))


@pytest.mark.parametrize('block', [100_000, 777])
def test_two_stages_give_the_gradient_of_the_whole(
        small_model, student, images, accelerator, monkeypatch, block):
    """Against autograd through generation and network in one graph."""
    monkeypatch.setattr(two_stage, 'BLOCK', block)
    student.eval()
    whole = student_of(small_model).eval()
    weights = {}
    for group in whole.generator.groups:
        kernels = whole.predictor(whole.generator.features(group), group.token_size)
        weights.update(split_weights(kernels, group.specs, group.position_of_kernel, whole.generator.scales))
    whole(images[0][:8], weights).square().mean().backward()

    leaves = student.generate()
    for half in images[0][:8].split(4):  # two batches of one step
        accelerator.backward(student(half, leaves).square().mean() / 2)
    student.backward(leaves)
    for (name, parameter), expected in zip(student.named_parameters(), whole.parameters()):
        if expected.grad is None:
            assert parameter.grad is None, name
        else:
            size = float(expected.grad.abs().max())
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-5 * size, msg=name)


def test_generated_weights_of_the_base_are_no_parameters_of_their_own(student):
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert 'model.layer1.0.conv1.weight' not in trained
    assert {'model.bn1.weight', 'model.linear.bias', 'model.conv1.weight'} <= trained
    assert 'generator.predictor.trunk.0.weight' in trained
    saved = trained_state(student)
    assert trained < set(saved) and 'model.layer1.0.conv1.weight' not in saved
    assert torch.equal(saved['model.bn1.running_mean'], student.model.bn1.running_mean)


@pytest.mark.parametrize('follows', [False, True])
def test_statistics_follow_the_images_as_asked(small_model, images, follows):
    student = student_of(small_model, follows_statistics=follows).train()
    assert student.model.bn1.training == follows and student.model.training
    before = student.model.bn1.running_var.clone()
    student(images[0][:8], student.generator())
    assert torch.equal(student.model.bn1.running_var, before) != follows


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
    generator = Generator.fresh(GeneratorConfig(), (), (), seed=0)  # of nothing: all weights are rounded
    storage = StorageConfig(quantization=QuantizationConfig(kept_bits=12))
    student = GeneratedModel(Artifact(generator, {}, None, storage, rounded, steps), copy.deepcopy(model), accelerator)
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
        plain, step = copy.deepcopy(student.model), 2. ** -4  # of the code -64
        plain.first.weight.copy_((plain.first.weight / step).round() * step)
        torch.testing.assert_close(student(batch, {}), plain(batch), rtol=0.01, atol=0.01)  # biases of 12 bits
        assert 'model.first.weight' in trained_state(student) and 'model.second.weight' not in trained_state(student)


@pytest.mark.parametrize('limit', [0, 256_000_000])
def test_features_are_those_of_the_generator_kept_or_computed_anew(small_model, monkeypatch, limit):
    generator = started(small_model).generator
    monkeypatch.setattr(two_stage, 'FEATURES_BYTES', limit)
    found, = two_stage.kernel_features(generator)
    for rows in (torch.tensor([5, 8191, 0, 77]), slice(100, 164)):
        assert torch.equal(found(rows), generator.features(generator.groups[0])[rows])
