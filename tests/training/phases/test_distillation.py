"""Distillation: it brings predictions closer, whatever is trained, and keeps within a budget of bytes."""
import copy
import itertools

import pytest
import torch
from conftest import Notes, fit_quickly, started

from timm_sbs.common.errors import SbsError
from timm_sbs.data.outputs import ClassOutputs
from timm_sbs.training import loop
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.phases import distillation
from timm_sbs.training.phases.distillation import distill
from timm_sbs.training.phases.rounding import ByteBudget


class InTurn:
    """Batches of some images, one after another."""

    def __init__(self, images, size):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.parts = images[order].split(size)

    def starting_at(self, number):
        return (self.parts[index % len(self.parts)] for index in itertools.count(number))


@pytest.fixture(scope='module')
def batches(images):
    return InTurn(images[0], 20)


@pytest.fixture()
def artifact(small_model):
    """One of one's own, to be trained in place."""
    return fit_quickly(small_model, 10, 20.)


def test_a_few_steps_bring_predictions_closer(small_model, artifact, images, batches):
    original, some = copy.deepcopy(small_model), images[0][::5]

    def divergence(artifact):
        model = copy.deepcopy(small_model)
        model.load_state_dict(artifact.as_stored().state_dict())
        return float(ClassOutputs(10).distillation_loss(model(some), small_model(some), 2.))

    before, notes, settings = divergence(artifact), Notes(), Distillation(steps=12, lr=2e-3, eval_interval=5)
    found = distill(artifact, original, batches, settings, notes)
    assert divergence(found) < 0.5 * before
    assert notes.considered == [(5, True), (10, True), (12, True)] and notes.done == list(range(1, 13))
    assert notes.logged[12]['lr'] == settings.lr_at(11) and notes.results['distillation_steps'] == 12
    assert not torch.equal(found.kept['bn1.running_var'], small_model.bn1.running_var)  # statistics follow the images
    assert not torch.equal(found.kept['linear.bias'], small_model.linear.bias)
    assert all(torch.equal(tensor, small_model.state_dict()[name]) for name, tensor in original.state_dict().items())


@pytest.mark.parametrize('clip_grad', [1e-3, 1e6])
def test_gradients_have_a_largest_norm(small_model, artifact, batches, clip_grad):
    """Of all that is trained: the predictor's last one is a part of that."""
    distill(artifact, small_model, batches, Distillation(steps=1, clip_grad=clip_grad))
    norm = float(torch.cat([p.grad.flatten() for p in artifact.generator.predictor.parameters()]).norm())
    assert (norm <= 1e-3) == (clip_grad == 1e-3)


@pytest.mark.parametrize('steps', [2, 6])
def test_a_loss_that_is_not_finite_is_one_sentence(small_model, artifact, batches, monkeypatch, steps):
    monkeypatch.setattr(loop, 'LOG_INTERVAL', 4)
    artifact.generator.predictor.heads['9'].bias.data.fill_(float('nan'))
    with pytest.raises(SbsError, match=f'is nan at step {min(steps, 4)}. Lower its learning rate'):
        distill(artifact, small_model, batches, Distillation(steps=steps, feature_weight=1.))
    assert not any(module._forward_hooks for module in small_model.modules())


@pytest.fixture(scope='module')
def rounded(small_model):
    """Weights of all stages but the last rounded, to nearly four bits each."""
    return started(small_model, None, bytes='60k', keep=('layer3.*',))


def test_rounded_weights_fit_into_fewer_bytes_after_the_last_step(small_model, batches, rounded):
    notes, size = Notes(), rounded.ledger()['total']
    budget = ByteBudget(size - 500)
    settings = Distillation(steps=4, rounding_lr=0.3)
    found = distill(rounded, small_model, batches, settings, notes, budget)
    assert size - 1500 < found.ledger()['total'] <= size - 500 and notes.considered[-1] == (4, True)
    assert all(torch.equal(codes, rounded.steps[name]) for name, codes in found.steps.items())
    assert all(not torch.equal(tensor, rounded.rounded[name]) for name, tensor in found.rounded.items())


def test_what_cannot_fit_does_not_pass_for_what_fits(small_model, batches, rounded, monkeypatch):
    monkeypatch.setattr(distillation, 'LEANING', 0.5)
    notes = Notes()
    distill(rounded, small_model, batches, Distillation(steps=2, eval_interval=1), notes, ByteBudget(5000))
    assert notes.considered == [(2, False)]  # in between only what fits is measured


def test_without_a_number_of_bits_integers_take_as_many_as_at_first(small_model, batches, rounded):
    found = distill(rounded, small_model, batches, Distillation(steps=30, rounding_lr=0.3))
    size = rounded.ledger()['rounded']
    assert 0.9 * size < found.ledger()['rounded'] < 1.03 * size, (size, found.ledger()['rounded'])


def test_a_quantized_predictor_keeps_its_step_sizes(small_model, batches):
    artifact = fit_quickly(small_model, 10, 20., bits=4.)
    found = distill(artifact, small_model, batches, Distillation(steps=2, lr=1e-2), bits=4.)
    again = found.with_fixed_steps()
    assert found.steps and all(torch.equal(codes, found.steps[name]) for name, codes in again.steps.items())
    assert not torch.equal(found.rounded['linear.weight'], small_model.linear.weight)


def test_integers_of_a_predictor_become_as_cheap_as_asked(small_model, batches):
    sizes = []
    for bits in (2., 4.):
        artifact = fit_quickly(small_model, 10, 20., bits=4.)
        found = distill(artifact, small_model, batches, Distillation(steps=8, lr=1e-2), bits=bits)
        sizes.append(found.ledger()['predictor'])
    assert sizes[0] < 0.99 * sizes[1]
