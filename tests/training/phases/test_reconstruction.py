"""Reconstruction on real weights: what is learned, ablations, scales of layers, learning rates, batches."""
import copy
import math

import pytest
import torch
from conftest import Notes, fit_quickly, started

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.config import StorageConfig
from timm_sbs.predictor.generator import Generator, relative_error
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design
from timm_sbs.training.loop import Context
from timm_sbs.training.phase_settings import Reconstruction
from timm_sbs.training.phases import reconstruction
from timm_sbs.training.phases.reconstruction import group_targets, reconstruct
from timm_sbs.training.settings import Target

NERN = dict(coordinates='grid', encoding='positional', activation='relu')


def error_of(artifact):
    return artifact.results['reconstruction_error']


def test_targets_are_the_kernels_in_the_order_of_positions(small_model):
    generator = started(small_model, pct=5.).generator
    targets, = group_targets(generator, small_model.state_dict())
    kernels = targets[generator.groups[0].position_of_kernel]
    weights = [small_model.get_parameter(s.name).detach().reshape(-1, 9) for s in generator.specs]
    torch.testing.assert_close(kernels, torch.cat([w / w.square().mean().sqrt() for w in weights]))
    # along the path, real kernels are close to their predecessors
    last = targets[-generator.specs[-1].num_kernels:]
    assert (last[1:] - last[:-1]).square().sum() < 0.7 * 2 * last.square().sum()


def test_real_weights_are_learned_and_nerns_configuration_learns_less(small_model):
    """NeRN's configuration stays near 1, the mean of all kernels. What is reported is the error of what is stored."""
    ours, nern = (fit_quickly(small_model, steps=60, pct=20., **target) for target in ({}, NERN))
    assert error_of(ours) < 0.5 and error_of(ours) < 0.6 * error_of(nern)
    assert error_of(ours) == pytest.approx(relative_error(ours.stored_weights(), small_model.state_dict()), rel=1e-6)


def test_a_layer_counts_by_the_square_root_of_its_values(small_model, monkeypatch):
    artifact, state, notes = started(small_model, 5.), small_model.state_dict(), Notes()
    sizes = {name: weight.numel() for name, weight in artifact.generator().items()}
    errors = [relative_error({name: weight}, state) * math.sqrt(sizes[name])
              for name, weight in artifact.generator().items()]
    monkeypatch.setattr(reconstruction, 'BATCH_SIZE', 10 ** 6)
    reconstruct(artifact, state, Reconstruction(steps=1), notes)
    expected = sum(errors) / sum(math.sqrt(size) for size in sizes.values())
    assert notes.logged[1]['loss'] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('target', [
    dict(coordinates='grid'), dict(order_over='filter'), dict(order_over='axes'), dict(order_over='nothing'),
    dict(bandwidth=16., bandwidth_exponent=0.), NERN, dict(linear_layers=3, activation='sine')])
def test_every_ablation_is_a_setting_that_can_be_stored(small_model, target, tmp_path):
    artifact = fit_quickly(small_model, steps=2, pct=20., storage_dtype='float32', **target)
    artifact.save(tmp_path)
    state = load_artifact(tmp_path).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in artifact.state_dict().items())


def test_kernels_of_two_sizes_share_a_predictor(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 16, 5))
    model.pretrained_cfg = dict(architecture='resnet18', first_conv='0', num_classes=0, input_size=(3, 32, 32))
    model.num_classes = 0
    chosen = design(model, Target(pct=60.))
    orderings = find_orderings(model, chosen.specs, chosen.generator.ordering)
    generator = Generator.fresh(  # timm cannot build the network
        chosen.generator, chosen.specs, orderings, seed=0, weights=model.state_dict())
    assert set(generator.predictor.heads) == {'9', '25'}
    artifact, context = Artifact(generator, {}, None, StorageConfig('float32')), Context()
    start = relative_error(generator(), model.state_dict())
    monkeypatch.setattr(reconstruction, 'BATCH_SIZE', 200)
    reconstruct(artifact, model.state_dict(), Reconstruction(steps=150), context)
    assert context.results['reconstruction_error'] < 0.8 * start
    assert {n: w.shape for n, w in generator().items()} == {'1.weight': (16, 16, 3, 3), '2.weight': (16, 16, 5, 5)}


@pytest.mark.parametrize('pct, wide', [(20., False), (60., True)])
def test_wide_predictors_get_less_of_the_learning_rate(small_model, pct, wide):
    artifact, settings, notes = started(small_model, pct, linear_layers=2), Reconstruction(steps=2), Notes()
    width = artifact.generator.config.predictor.width
    assert (width > 128) == wide
    reconstruct(artifact, small_model.state_dict(), settings, notes)
    assert notes.logged[2]['lr'] == pytest.approx(settings.lr_at(1) * min(1., 128 / width)) and notes.done == [1, 2]


def scaled(model, names, factor):
    """The same function: convolutions times a factor, and with them the statistics of the BatchNorm that follows."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            block, conv = name.rsplit('.', 1)
            norm = model.get_submodule(f'{block}.{conv.replace("conv", "bn")}')
            model.get_submodule(name).weight.mul_(factor)
            norm.running_mean.mul_(factor)
            norm.running_var.mul_(factor ** 2)
    return model


@pytest.mark.parametrize('bits', [None, 5.])
def test_scales_of_layers_change_nothing(small_model, bits):
    """Factors are powers of two: all that is computed is the same, bit by bit."""
    names, factor = ['layer2.0.conv2', 'layer3.0.conv1'], 2. ** -10
    plain = fit_quickly(small_model, steps=10, bits=bits, storage_dtype='float32')
    other = fit_quickly(scaled(small_model, names, factor), steps=10, bits=bits, storage_dtype='float32')
    assert error_of(plain) == pytest.approx(error_of(other), rel=1e-6)
    found, expected = other.stored_weights(), plain.stored_weights()
    for name, weight in expected.items():
        changed = name.removesuffix('.weight') in names
        torch.testing.assert_close(found[name], weight * factor if changed else weight, rtol=1e-4, atol=1e-7 * factor)


def test_a_layer_of_zeros_and_one_of_tiny_numbers(small_model, tmp_path):
    model = copy.deepcopy(small_model)
    with torch.no_grad():
        model.layer2[0].conv1.weight.zero_()
        model.layer1[0].conv1.weight.mul_(1e-20)
    fit_quickly(model, steps=40, pct=10.).save(tmp_path)
    weights, name = load_artifact(tmp_path).stored_weights(), 'layer1.0.conv1.weight'
    assert not weights['layer2.0.conv1.weight'].any() and all(w.isfinite().all() for w in weights.values())
    assert relative_error({name: weights[name]}, model.state_dict()) < 0.9
