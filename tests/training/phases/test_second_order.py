"""Second order on real weights, and what it does to predictions."""
import copy
import dataclasses
import re

import pytest
import torch
from conftest import Doubtful, Notes, started

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.progress import messages
from timm_sbs.data.accuracy import evaluate
from timm_sbs.predictor.generator import split_weights
from timm_sbs.predictor.selection import select_weights
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.phase_settings import Reconstruction, SecondOrder
from timm_sbs.training.phases.reconstruction import reconstruct
from timm_sbs.training.phases.rounding import quantize_predictor
from timm_sbs.training.phases.second_order import corrected, fit_second_order
from timm_sbs.training.settings import Target

SHALLOW = dict(keep=('layer3.*',))  # the last stage has most of the kernels


def measured(model, images):
    """Uses and statistics on every fifth image of the demo."""
    uses = find_uses(
        model, [spec.name for spec in select_weights(model, Target(**SHALLOW).rule)], images[0][:1])
    accelerator = make_accelerator('no', cpu=True)
    return uses, collect_statistics(model, uses, images[0][::5].split(25), 100, accelerator)[0]


@pytest.fixture(scope='module')
def seen(small_model, images):
    return measured(small_model, images)


def reconstructed(model, steps, **target):
    return reconstruct(started(model, 12., **SHALLOW, **target), model.state_dict(), Reconstruction(steps=steps))


def divergence_of(artifact, model, seen):
    weights = {name: model.get_parameter(name) for name in artifact.generator.names}
    return ExpectedDivergence(weights, *seen, 1e-3)


def test_a_few_steps_bring_predictions_back(resnet20, images):
    """On images that the statistics have not seen. Corrected means alone do not."""
    artifact, state = reconstructed(resnet20, 60), resnet20.state_dict()
    divergence = divergence_of(artifact, resnet20, measured(resnet20, images))

    def top1(artifact):
        model = copy.deepcopy(resnet20)
        model.load_state_dict(artifact.as_stored().state_dict())
        return evaluate(model, [tuple(part[1::5] for part in images)]).top1

    before = top1(artifact), top1(corrected(artifact, divergence, state))
    losses = [divergence.total(artifact.stored_weights())]
    found = fit_second_order(artifact, state, divergence, SecondOrder(30, 3e-3))
    losses.append(divergence.total(found.stored_weights()))
    assert losses[1] < 0.8 * losses[0] and top1(found) > max(before) + 3
    assert not torch.equal(found.kept['layer1.0.bn1.running_mean'], state['layer1.0.bn1.running_mean'])
    assert torch.equal(found.kept['bn1.running_mean'], state['bn1.running_mean'])  # behind the stem, which is stored


@pytest.mark.parametrize('max_positions', [0, 128])
def test_a_step_has_the_loss_and_the_gradient_of_all_weights(small_model, seen, max_positions):
    """Against autograd through their generation."""
    artifact = reconstructed(small_model, 5, max_positions=max_positions)
    divergence, generator = divergence_of(artifact, small_model, seen), artifact.generator
    generator.predictor.zero_grad()
    total, weights = 0., {}
    for group in generator.groups:
        kernels = generator.predictor(generator.features(group), group.output_size)
        weights.update(split_weights(kernels, group.specs, group.position_of_kernel, generator.scales))
    for name, weight in weights.items():
        loss, gradient = divergence(name, weight)
        total += float(loss)
        weight.backward(gradient, retain_graph=True)
    expected = torch.cat([p.grad.flatten() for p in generator.predictor.parameters()])

    notes = Notes()
    fit_second_order(artifact, small_model.state_dict(), divergence, SecondOrder(1, 1e-12), notes)
    found = torch.cat([p.grad.flatten() for p in generator.predictor.parameters()])
    assert notes.logged[1]['loss'] == pytest.approx(total, rel=1e-4)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_the_scale_of_a_layer_changes_nothing(small_model, seen):
    name, losses = 'layer1.0.conv1.weight', []
    uses, statistics = seen
    for factor in (1, 32):
        model = copy.deepcopy(small_model)
        layer = dataclasses.replace(statistics[name], importance=statistics[name].importance / factor ** 2)
        model.get_parameter(name).data.mul_(factor)
        artifact = reconstructed(model, 5)
        divergence = divergence_of(artifact, model, (uses, {**statistics, name: layer}))
        found = fit_second_order(artifact, model.state_dict(), divergence, SecondOrder(5, 3e-3))
        losses.append(divergence.total(found.stored_weights()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_rounded_training_lowers_the_loss_of_the_rounded_weights(small_model, seen):
    artifact = reconstructed(small_model, 20, linear_layers=4)
    divergence = divergence_of(artifact, small_model, seen)
    artifact = quantize_predictor(artifact, 4., divergence=divergence)
    before = divergence.total(artifact.stored_weights())
    found = fit_second_order(artifact, small_model.state_dict(), divergence, SecondOrder(20, 3e-3))
    assert found.storage.quantization and divergence.total(found.stored_weights()) < 0.8 * before


@pytest.mark.parametrize('lr, context, says', [
    (3., Notes, 'the loss rose from .* so the steps are undone. Lower the learning rate'),
    (1e-3, Doubtful, 'agreement fell from 90.0 to 10.0 %, so the steps are undone')])
def test_steps_that_make_it_worse_are_undone(small_model, seen, capsys, lr, context, says):
    artifact, state, context = reconstructed(small_model, 5), small_model.state_dict(), context()
    divergence = divergence_of(artifact, small_model, seen)
    before = corrected(artifact, divergence, state)
    expected, loss = before.as_stored().state_dict(), divergence.total(before.stored_weights())
    with messages():
        found = fit_second_order(artifact, state, divergence, SecondOrder(4, lr), context).as_stored().state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert context.results['expected_divergence'] == pytest.approx(loss)
    printed = capsys.readouterr().out
    assert re.search(says, printed), printed


def test_means_that_are_corrected_have_the_variances_of_the_original_beside_them(small_model, seen):
    """Not those of an earlier recalibration, which belong to other means."""
    artifact, state = reconstructed(small_model, 5), small_model.state_dict()
    recalibrated = {name: 2 * tensor if 'running' in name else tensor for name, tensor in artifact.kept.items()}
    found = corrected(
        dataclasses.replace(artifact, kept=recalibrated), divergence_of(artifact, small_model, seen), state).kept
    assert torch.equal(found['layer1.0.bn1.running_var'], state['layer1.0.bn1.running_var'])
    assert not torch.equal(found['layer1.0.bn1.running_mean'], recalibrated['layer1.0.bn1.running_mean'])
