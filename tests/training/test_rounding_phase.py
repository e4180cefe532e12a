"""Rounding as a method of its own, from the trainer's arguments to the file: with images, without, resumed, shared."""
import csv
import re
from pathlib import Path

import killing
import pytest
import timm
import torch
from killing import digests, killed_after
from processes import launch

from timm_sbs.artifact.card import artifact_card
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.config import OTHERS
from timm_sbs.common.errors import SbsError
from timm_sbs.predictor.generator import relative_error
from timm_sbs.train import main
from timm_sbs.training.fit import describe_fit, fit

QUICK = dict(method='rounding', mixed_precision='no', quiet=True)
TRAINED = dict(distillation_steps=8, batch_size=10, workers=0, eval_interval=4, rounding_lr=0.3)
STEPS = dict(statistics_images=50, **TRAINED)
BYTES = 20_000


@pytest.fixture(scope='module')
def model(resnet8):
    return timm.create_model('resnet8_cifar10', checkpoint_path=resnet8[3])


@pytest.fixture(scope='module')
def trained(model, image_folder, tmp_path_factory):
    """Its artifact, and everything that the run wrote."""
    out = tmp_path_factory.mktemp('trained')
    return fit(model, bytes=BYTES, images=image_folder / 'train', output=out, **STEPS, **QUICK), out


def size(folder):
    return sum((folder / name).stat().st_size for name in ('config.json', 'model.safetensors'))


def rows_of(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return [(row['phase'], int(row['step'])) for row in csv.DictReader(file)]


def test_all_weights_are_rounded_and_trained(model, trained):
    artifact, out = trained
    assert artifact.config.rounded == (OTHERS,) and not artifact.config.generated and artifact.storage.quantization
    assert rows_of(out) == [('rounding', 0), *[('quantization', step) for step in (0, 4, 8)]]
    last = load_artifact(out / 'last')
    assert last.results['quantization_steps'] == 8 and last.results['statistics_images'] == 50
    assert not last.results['reconstruction_steps'] and 'reconstruction_error' not in last.results
    originals = {name: model.state_dict()[name] for name in artifact.rounded}
    assert 0 < relative_error(artifact.weights(), originals) < 0.8
    assert any(not torch.equal(tensor, artifact.rounded[name]) for name, tensor in last.rounded.items())
    assert all(torch.equal(codes, artifact.steps[name]) for name, codes in last.steps.items())


@pytest.mark.parametrize('folder', ['.', 'last'])
def test_the_bytes_that_were_asked_for_are_kept(trained, folder):
    assert 0.9 * BYTES < size(trained[1] / folder) <= BYTES


def test_timm_creates_the_model(trained):
    artifact, out = trained
    state = timm.create_model(f'local-dir:{out}', pretrained=True).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in artifact.state_dict().items())


def test_without_images_errors_count_by_their_squares(model, tmp_path):
    artifact = fit(model, bytes=BYTES, output=tmp_path, **QUICK)
    assert 0.95 * BYTES < size(tmp_path) <= BYTES
    assert ('rounding', 0) in rows_of(tmp_path) and not any('constr' in phase for phase, _ in rows_of(tmp_path))
    originals = {name: model.state_dict()[name] for name in artifact.rounded}
    error = relative_error(artifact.weights(), originals)
    assert artifact.results['rounding_error'] == pytest.approx(error, rel=1e-3)
    smaller = fit(model, bytes=BYTES // 2, **QUICK)
    assert relative_error(smaller.weights(), originals) > 2 * error
    assert all(torch.equal(tensor, model.state_dict()[name]) or tensor.is_floating_point()
               for name, tensor in artifact.kept.items())


@pytest.mark.parametrize('wanted, warned', [(dict(bits=1), True), (dict(bits=6), False)])
def test_a_network_that_predicts_nothing_any_more_is_told(model, tmp_path, capsys, wanted, warned):
    fit(model, output=tmp_path, method='rounding', mixed_precision='no', **wanted)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith('warning: ')]
    assert bool(told) == warned and all('--data-dir' in line for line in told)


def test_bits_of_a_weight_instead_of_bytes(model, tmp_path):
    """Fewer than two are allowed. The code takes less than they say, for it knows of neighbours in a kernel."""
    for bits in (1.5, 3.):
        artifact = fit(model, bits=bits, output=tmp_path / str(bits), **QUICK)
        weights = sum(tensor.numel() for tensor in artifact.rounded.values())
        coded = load_artifact(tmp_path / str(bits)).stored.tensors['rounded']
        assert 0.8 * bits < 8 * coded.numel() / weights <= bits


@pytest.mark.parametrize('with_images', [False, True])
def test_more_bytes_than_can_be_used(model, image_folder, tmp_path, with_images):
    """Integers have a limit, and so do bits: what is recorded is the error of the file, and next to nothing."""
    images = dict(images=image_folder / 'train', statistics_images=50, workers=0) if with_images else {}
    artifact = fit(model, bytes=400_000, output=tmp_path, distillation_steps=0, **images, **QUICK)
    originals = {name: model.state_dict()[name] for name in artifact.rounded}
    error = relative_error(load_artifact(tmp_path).weights(), originals)
    assert error < 2e-5 and artifact.results['rounding_error'] == pytest.approx(error, rel=1e-2)
    assert size(tmp_path) < 150_000


def test_what_distillation_taught_is_rounded(model, image_folder, tmp_path):
    """Where rounding has steps of its own, it begins from what the phase before it ended with."""
    artifact = fit(
        model, bits=5, images=image_folder / 'train', output=tmp_path, quantization_steps=1,
        **{**STEPS, 'rounding_lr': 3}, **QUICK)
    assert [phase for phase, _ in rows_of(tmp_path)].count('distillation') == 3
    name = 'linear.weight'
    step = 2 ** (float(artifact.steps[f'rounded.{name}']) / 16)
    moved = (load_artifact(tmp_path / 'last').rounded[name] - model.state_dict()[name]).abs().mean()
    assert moved > 4 * step  # the last step alone goes 3


def test_beside_generated_weights(model, image_folder, tmp_path):
    """The rate of both meets the budget, and nothing is both."""
    artifact = fit(
        model, bytes=44_000, bits=4, order_over='axes', images=image_folder / 'train', output=tmp_path,
        reconstruction_steps=20, second_order_steps=0, mixed_precision='no', quiet=True,
        generate=['linear.*'], keep=['layer1.*'], **TRAINED)
    assert list(artifact.rounded) == ['conv1.weight'] and 'linear.weight' in artifact.config.generated
    assert 'layer1.0.conv1.weight' in artifact.kept
    assert size(tmp_path) <= 44_000 and size(tmp_path / 'last') <= 44_000


@pytest.mark.parametrize('with_images', [False, True])
def test_what_is_rounded_is_gone_on_from(model, trained, image_folder, tmp_path, with_images):
    """It stays rounded, in the same steps."""
    artifact, out = trained
    more = dict(images=image_folder / 'train', **TRAINED) if with_images else {}
    again = fit(model, start_from=str(out), output=tmp_path, mixed_precision='no', quiet=True, **more)
    assert again.storage.quantization and again.config.rounded == (OTHERS,)
    assert again.steps.keys() == artifact.steps.keys()
    assert all(torch.equal(codes, artifact.steps[name]) for name, codes in again.steps.items())
    if not with_images:
        assert all(torch.equal(tensor, artifact.rounded[name]) for name, tensor in again.rounded.items())
    card = artifact_card(tmp_path, 'user/any')
    assert '- phases: rounding by second order' in card and 'squared errors' not in card


def test_the_card_tells_of_no_rounding_where_the_phase_was_left_out(model, image_folder, tmp_path):
    fit(model, bytes=BYTES, images=image_folder / 'train', output=tmp_path, second_order_steps=0, **TRAINED, **QUICK)
    assert '- phases: 8 steps of distillation, rounded\n' in artifact_card(tmp_path / 'last', 'user/any')


def test_a_plan(model, image_folder):
    text = describe_fit(
        model, bytes=BYTES, images=image_folder / 'train', method='rounding', mixed_precision='no', **STEPS)
    assert '8 weights, 74,800 parameters (99.3 %)' in text and 'statistics: 50 images' in text
    for word in ('predictor', 'generated', 'ordering', 'reconstruction', 'second-order'):
        assert word not in text, word


def test_a_plan_of_more_training_tells_the_size_that_there_is(model, trained, image_folder):
    out = trained[1]
    text = describe_fit(model, start_from=str(out), images=image_folder / 'train', mixed_precision='no', **TRAINED)
    told = int(re.search(r'files: ([\d,]+) bytes', text)[1].replace(',', ''))
    assert told == pytest.approx(size(out), rel=0.02) and 'at first' not in text


@pytest.mark.parametrize('wish, rounds', [
    (dict(), True), (dict(recipe='cifar10'), True), (dict(recipe='cifar10_rounding'), True),
    (dict(method='generation'), False), (dict(order_over='axes'), False), (dict(bits=6), False),
    (dict(generate=['linear.*']), False), (dict(recipe='imagenet'), False)])
def test_bytes_round_unless_a_predictor_is_wished_for(model, wish, rounds):
    text = describe_fit(model, bytes='40k', mixed_precision='no', **wish)
    assert ('predictor: width' in text, '8 weights, 74,800 parameters (99.3 %)' in text) == (not rounds, rounds)
    files = int(re.search(r'files: ([\d,]+) bytes', text)[1].replace(',', ''))
    assert 37_000 < files <= 40_000


def test_per_cent_makes_a_predictor(model):
    for size in ({}, dict(pct=10)):
        assert 'predictor: width' in describe_fit(model, mixed_precision='no', **size)


@pytest.mark.parametrize('wrong, says', [
    (dict(), 'needs to know how small'), (dict(bytes=1500), '1,500 bytes are too few'),
    (dict(bits=0.2), '--bits is 0.2, but must be from 0.5'), (dict(bytes=BYTES, keep=['nothing.*']), "--keep 'nothing"),
    (dict(bytes=BYTES, method='both'), "invalid choice: 'both'"),
    (dict(bytes=BYTES, generate=['layer3.*']), '--generate names weights for a predictor, and --method rounding')])
def test_what_cannot_be_rounded(model, tmp_path, wrong, says):
    with pytest.raises(SbsError, match=says):
        fit(model, output=tmp_path / 'out', **{**QUICK, **wrong})
    assert not (tmp_path / 'out' / 'model.safetensors').exists()


@pytest.mark.parametrize('bits', [None, 3])
def test_bytes_that_are_too_few_are_refused_before_any_work(model, image_folder, bits):
    """Also by a plan, and beside bits, with images or without. The least that works is told, and works."""
    wanted = dict(method='rounding', mixed_precision='no', bits=bits)
    for more in ({}, dict(images=image_folder / 'train', **STEPS)):
        with pytest.raises(SbsError, match=r'4,000 bytes are too few: with about 0\.5 bits .* take') as refusal:
            describe_fit(model, bytes=4000, **wanted, **more)
    least = int(str(refusal.value).removesuffix('.').rpartition(' ')[2].replace(',', ''))
    fitted = fit(model, bytes=least, quiet=True, **wanted)
    assert any(tensor.any() for tensor in fitted.rounded.values())


def argv_of(resnet8, image_folder, *more):
    return [*resnet8[:4], '--mixed-precision', 'no', '--method', 'rounding', '--bytes', str(BYTES), '--data-dir',
            str(image_folder), '--statistics-images', '20', '--distillation-steps', '8', '--eval-interval', '4',
            '--rounding-lr', '0.3', '-b', '10', '-j', '0', *more]


@pytest.mark.parametrize('more', [
    (), ('--method', 'generation', '--order-over', 'axes', '--bits', '4', '--reconstruction-steps', '3',
         '--second-order-steps', '3')],
    ids=['rounded', 'beside a predictor'])
def test_a_killed_run_ends_with_the_artifacts_of_an_uninterrupted_one(tmp_path, resnet8, image_folder, more):
    """It dies two steps after a checkpoint, while the weight of the rate moves."""
    argv = argv_of(resnet8, image_folder, *more, '--checkpointing-steps', '3')
    assert main([*argv, '--output', str(tmp_path / 'whole')]) == 0
    again = [*argv, '--output', str(tmp_path / 'killed'), '--resume', 'latest']
    killed_after(11 if more else 5, again)
    found = [path.name for path in (tmp_path / 'killed' / 'checkpoints').glob('checkpoint-*')]
    assert max(found) == ('checkpoint-0000009' if more else 'checkpoint-0000003') and len(found) == (3 if more else 1)
    assert main(again) == 0
    assert digests(tmp_path / 'killed') == digests(tmp_path / 'whole')
    assert rows_of(tmp_path / 'killed') == rows_of(tmp_path / 'whole')


def test_two_processes_share_a_run(tmp_path, resnet8, image_folder):
    argv = argv_of(resnet8, image_folder, '--output', str(tmp_path))
    printed = launch(2, Path(killing.__file__), 1_000_000, *argv)
    assert printed.count('rounding: error') == 1 and 'predictor' not in printed
    assert size(tmp_path) <= BYTES and size(tmp_path / 'last') <= BYTES
    assert rows_of(tmp_path) == [
        ('rounding', 0), *[('quantization', step) for step in (0, 4, 8)], ('validation', 0)]
    assert len(load_artifact(tmp_path).rounded) == 8
