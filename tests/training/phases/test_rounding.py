"""Rounding of original weights into a number of bytes, and of a trained predictor to bits."""
import dataclasses

import pytest
import torch
from conftest import Doubtful, Notes, fit_quickly, started

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.progress import messages
from timm_sbs.predictor.generator import relative_error
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.phases import rounding
from timm_sbs.training.phases.rounding import ByteBudget, quantize_predictor, round_original

KEEP = ('layer3.*',)  # the last stage has most of the weights, and takes most of the bytes
BYTES, FEWER = 57_000, 55_000


@pytest.fixture(scope='module')
def rounded(small_model):
    """All other weights, as a run begins with them."""
    return started(small_model, None, bytes=BYTES, keep=KEEP)


def measured(model, names, images):
    """The divergence that follows from statistics of every tenth image."""
    weights, accelerator = {name: model.get_parameter(name) for name in names}, make_accelerator('no', cpu=True)
    uses = find_uses(model, list(names), images[0][:1])
    statistics, _ = collect_statistics(model, uses, images[0][::10].split(25), 50, accelerator)
    return ExpectedDivergence(weights, uses, statistics, 1e-3)


@pytest.fixture(scope='module')
def divergence(small_model, rounded, images):
    return measured(small_model, rounded.rounded, images)


@pytest.fixture(scope='module')
def by_squares(small_model, rounded):
    """Rounded without statistics."""
    notes = Notes()
    found = round_original(rounded, small_model.state_dict(), ByteBudget(BYTES), context=notes)
    return found.with_results(notes.results)


def test_without_statistics_errors_count_by_their_squares(small_model, rounded, by_squares):
    state = small_model.state_dict()
    assert 0.98 * BYTES < by_squares.ledger()['total'] <= BYTES
    assert by_squares.results['rounding_error'] == pytest.approx(relative_error(by_squares.rounded, state), rel=1e-3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in by_squares.kept.items())
    smaller = round_original(rounded, state, ByteBudget(FEWER))
    assert smaller.ledger()['total'] <= FEWER
    assert relative_error(smaller.rounded, state) > 1.5 * by_squares.results['rounding_error']


def test_statistics_lower_the_divergence_and_biases_make_up_for_errors(small_model, rounded, divergence, by_squares):
    state = small_model.state_dict()
    found = round_original(rounded, state, ByteBudget(BYTES), divergence)
    assert 0.98 * BYTES < found.ledger()['total'] <= BYTES
    assert divergence.total(found.rounded) < 0.5 * divergence.total(by_squares.rounded)
    changed = {name for name, tensor in found.kept.items() if not torch.equal(tensor, state[name])}
    assert changed == {'linear.bias', *(
        name for name in state if name.endswith('running_mean') and not name.startswith('layer3'))}


def test_squared_errors_are_taken_where_statistics_lead_to_far_worse_predictions(
        small_model, rounded, divergence, by_squares, capsys):
    with messages():
        found = round_original(
            rounded, small_model.state_dict(), ByteBudget(BYTES), divergence, Doubtful())
    assert all(torch.equal(tensor, by_squares.rounded[name]) for name, tensor in found.rounded.items())
    assert 'rounding by statistics keeps 10.0 % of the predictions, without them 90.0 %' in capsys.readouterr().out


def test_what_makes_up_for_errors_takes_bytes_too(small_model, rounded, divergence, monkeypatch):
    """Here as many as a convolution that was all zero."""
    name = 'layer3.0.conv1.weight'
    empty = dataclasses.replace(rounded, kept={**rounded.kept, name: torch.zeros_like(rounded.kept[name])})
    monkeypatch.setattr(rounding, 'corrected', lambda artifact, *_: dataclasses.replace(
        artifact, kept={**artifact.kept, name: rounded.kept[name]}))
    found = round_original(empty, small_model.state_dict(), ByteBudget(BYTES), divergence)
    assert 0.97 * BYTES < found.ledger()['total'] <= BYTES


def test_bytes_that_nobody_needs_are_not_taken(small_model):
    """Integers have a limit, and so do bits: what is left is next to nothing."""
    artifact, state = started(small_model, None, bytes=400_000, keep=KEEP), small_model.state_dict()
    found = round_original(artifact, state, ByteBudget(400_000))
    assert relative_error(found.rounded, state) < 2e-5 and found.ledger()['total'] < 100_000


def test_layers_of_a_predictor_get_bits_by_what_their_errors_do(small_model, images):
    artifact, notes = fit_quickly(small_model, 10, 20.), Notes()
    found = quantize_predictor(artifact, 4.5, kept_bits=7, context=notes)
    bits = found.storage.quantization.layer_bits
    parameters = dict(artifact.generator.predictor.named_parameters())
    sizes = [parameter.numel() for name, parameter in parameters.items() if name.endswith('weight')]
    assert found.storage.quantization.kept_bits == 7 and notes.results['layer_bits'] == list(bits)
    assert sum(b * size for b, size in zip(bits, sizes)) / sum(sizes) == pytest.approx(4.5, abs=0.05)
    assert max(bits) - min(bits) > 0.2
    divergence = measured(small_model, artifact.generator.names, images)
    assert quantize_predictor(artifact, 4.5, divergence=divergence).storage.quantization.layer_bits != bits
