"""The second-order phase on real weights, and what it does to predictions, through timm_sbs.train.main(argv) too."""
import copy
import csv
import dataclasses
import io
import shutil
from contextlib import redirect_stdout

import pytest
import timm
import torch
from conftest import RESNET, RESNET20, started
from PIL import Image
from safetensors.torch import load_file, save_file

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.config import OrderingConfig, QuantizationConfig, SelectionRule
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.accuracy import evaluate
from timm_sbs.predictor.selection import select_weights
from timm_sbs.train import main
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses
from timm_sbs.training.options.settings import ReconstructionSettings, SecondOrderSettings
from timm_sbs.training.run import calibration
from timm_sbs.training.run.calibration import corrected_kept
from timm_sbs.training.steps.reconstruction import reconstruct
from timm_sbs.training.steps.second_order import _FilterBatches, second_order
from timm_sbs.training.steps.two_stage import TwoStageGenerator

# The last stage has most of the kernels, and is kept here.
RULE = SelectionRule(keep=('layer3.*',))
SHALLOW = ['--keep', 'layer3.*', '--pct', '8']


@pytest.fixture(scope='module')
def accelerator():
    return make_accelerator('no', cpu=True)


@pytest.fixture(scope='module')
def measured(resnet20, images, accelerator):
    """Uses and statistics of ResNet-20 on every fourth image of the demo."""
    specs = select_weights(resnet20, RULE)
    uses = find_uses(resnet20, specs, images[0][:1])
    return uses, collect_statistics(resnet20, uses, images[0][::4].split(25), 125, accelerator)[0]


def reconstructed(model, accelerator, steps=60, **settings):
    artifact = started(model, pct=8., rule=RULE, **settings)
    reconstruct(
        artifact.generator, model.state_dict(), ReconstructionSettings(steps=steps), accelerator=accelerator)
    return artifact


def divergence_of(artifact, model, measured, damping=1e-3):
    uses, statistics = measured
    return ExpectedDivergence(artifact.generator.specs, model.state_dict(), uses, statistics, damping)


def accuracy(model, changes, images):
    changed = copy.deepcopy(model)
    changed.load_state_dict(changes, strict=False)
    return evaluate(changed, [tuple(part[1::4] for part in images)]).top1


@pytest.mark.parametrize('settings', [
    dict(), dict(ordering=OrderingConfig(max_places=256)), dict(ordering=OrderingConfig('axes', 'grid'))])
def test_a_few_steps_bring_predictions_back(resnet20, images, accelerator, measured, settings):
    """On images that the statistics have not seen. Folded predictors take all kernels in a step."""
    artifact = reconstructed(resnet20, accelerator, **settings)
    divergence = divergence_of(artifact, resnet20, measured)
    two_stage = TwoStageGenerator(artifact.generator)
    before = artifact.stored_weights()
    corrected = {**before, **corrected_kept(resnet20, divergence, before)}
    second_order(two_stage, divergence, SecondOrderSettings(30, lr=3e-3), accelerator)
    after = artifact.stored_weights()
    assert divergence.total(after) < 0.8 * divergence.total(before)
    top1 = [accuracy(resnet20, changes, images) for changes in (
        before, corrected, {**after, **corrected_kept(resnet20, divergence, after)})]
    # of a grid nothing is left after so few steps of reconstruction
    if artifact.generator.config.ordering.coordinates == 'path':
        assert top1[2] > max(top1[:2]) + 3


@pytest.mark.parametrize('settings', [dict(), dict(ordering=OrderingConfig(max_places=256))])
def test_the_scale_of_a_layer_changes_nothing(resnet20, accelerator, measured, settings):
    name, losses = 'layer1.0.conv1.weight', []
    uses, statistics = measured
    for factor in (1, 32):
        model = copy.deepcopy(resnet20)
        layer = dataclasses.replace(statistics[name], importance=statistics[name].importance / factor ** 2)
        with torch.no_grad():
            model.get_parameter(name).mul_(factor)
        artifact = reconstructed(model, accelerator, steps=5, **settings)
        divergence = divergence_of(artifact, model, (uses, {**statistics, name: layer}))
        second_order(TwoStageGenerator(artifact.generator), divergence, SecondOrderSettings(5, lr=3e-3), accelerator)
        losses.append(divergence.total(artifact.stored_weights()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_gradients_of_filters_add_up_to_those_of_everything(resnet20, accelerator, measured):
    from timm_sbs.training.steps import second_order as module
    artifact = reconstructed(resnet20, accelerator, steps=5)
    divergence = divergence_of(artifact, resnet20, measured)
    two_stage = TwoStageGenerator(artifact.generator)

    def gradient(step):
        two_stage.zero_grad()
        loss = float(step())
        return loss, torch.cat([p.grad.flatten() for p in two_stage.predictor.parameters()])

    whole = gradient(lambda: module._whole_step(two_stage, divergence, accelerator))
    filters = [spec.num_filters for spec in artifact.generator.specs]
    batches = _FilterBatches(filters, 5, seed=3, device=torch.device('cpu')).starting_at(0)
    parts = [gradient(lambda: module._batch_step(two_stage, divergence, next(batches), 5, accelerator))
             for _ in range(5)]
    assert sum(loss for loss, _ in parts) / 5 == pytest.approx(whole[0], rel=1e-3)
    mean = torch.stack([g for _, g in parts]).mean(0)
    assert (mean - whole[1]).norm() < 1e-3 * whole[1].norm()


def test_batches_take_every_filter_once_and_can_be_taken_up_anywhere():
    def batches(start, count):
        stream = _FilterBatches([16, 3, 40], 5, seed=1, device=torch.device('cpu')).starting_at(start)
        return [[part.tolist() for part in next(stream)] for _ in range(count)]

    whole = batches(0, 12)
    for layer, count in enumerate((16, 3, 40)):
        assert sorted(sum((batch[layer] for batch in whole[:5]), [])) == list(range(count))
    assert whole[:5] != whole[5:10] and batches(7, 5) == whole[7:]


def test_rounded_training_lowers_the_loss_of_the_rounded_weights(resnet20, accelerator, measured):
    artifact = reconstructed(resnet20, accelerator, linear_layers=4)
    artifact = artifact.quantized(QuantizationConfig((4.,) * 4))
    divergence = divergence_of(artifact, resnet20, measured)
    two_stage = TwoStageGenerator(artifact.generator, artifact.storage.quantization)
    before = divergence.total(artifact.stored_weights())
    second_order(two_stage, divergence, SecondOrderSettings(30, lr=3e-3), accelerator)
    assert divergence.total(artifact.stored_weights()) < 0.8 * before


@pytest.fixture()
def train(resnet8):
    """A run of the trainer on a small network, without a step of distillation."""
    return lambda out, folder, *argv: run(
        resnet8, out, folder, '--reconstruction-steps', '20', '--statistics-images', '40', '--second-order-steps', '10',
        *argv)


def run(flags, out, folder, *argv):
    return main([*flags, '--data-dir', str(folder), '-j', '0', '-b', '20', '--distillation-steps', '0',
                 '--output', str(out), *argv])


SHAPE = [*SHALLOW, '--order-over', 'axes', '--linear-layers', '4']
RECONSTRUCTED = [*RESNET, *SHAPE, '--reconstruction-steps', '100']
SECOND = ['--statistics-images', '100', '--second-order-steps', '20']
AXES = [*RECONSTRUCTED, *SECOND]


@pytest.fixture(scope='module')
def calibrated(tmp_path_factory, image_folder):
    """A run of reconstruction and second order on the real ResNet-20, and what it printed."""
    out, printed = tmp_path_factory.mktemp('calibrated'), io.StringIO()
    with redirect_stdout(printed):
        assert run(AXES, out, image_folder, '--checkpointing-steps', '100') == 0
    return out, printed.getvalue()


def test_through_the_trainer(calibrated):
    """Without a step of distillation: the artifact has the weights that were measured, and corrected means."""
    out, printed = calibrated
    assert 'second-order: expected divergence' in printed
    artifact = load_artifact(out)
    results = artifact.results
    assert results['statistics_images'] == 100 and results['expected_divergence'] > 0
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)
    assert not torch.equal(artifact.kept['layer1.0.bn1.running_mean'], original.layer1[0].bn1.running_mean)
    assert torch.equal(artifact.kept['bn1.running_mean'], original.bn1.running_mean)  # behind the stem, which is kept
    assert torch.equal(artifact.kept['linear.bias'], original.linear.bias)
    with open(out / 'summary.csv', newline='') as file:
        assert [row['phase'] for row in csv.DictReader(file)] == [
            'reconstruction', 'second-order', 'end', 'validation']
    assert (out / 'checkpoints' / 'statistics.safetensors').is_file()


def rows_of(out):
    with open(out / 'summary.csv', newline='') as file:
        return {row['phase']: row for row in csv.DictReader(file)}


def test_what_held_out_images_say_is_told_after_each_phase(calibrated, tmp_path, image_folder):
    """Where rounding follows, too: the figures are those of runs that end with the phase."""
    assert run(AXES, tmp_path / 'a', image_folder, '--bits', '2', '--quantization-steps', '2') == 0
    assert run(RECONSTRUCTED, tmp_path / 'c', image_folder, '--distillation-steps', '1', '--eval-interval', '1') == 0
    figures = [float(row['holdout_divergence']) for row in (
        rows_of(tmp_path / 'a')['reconstruction'], rows_of(tmp_path / 'a')['second-order'])]
    with open(tmp_path / 'c' / 'summary.csv', newline='') as file:
        [start] = [row for row in csv.DictReader(file) if (row['phase'], row['step']) == ('distillation', '0')]
    rounded, second = (load_artifact(out).results for out in (tmp_path / 'a', calibrated[0]))
    assert figures == [float(start['holdout_divergence']), second['holdout_divergence']]
    assert len({*figures, rounded['holdout_divergence']}) == 3
    assert second['holdout_images'] == 40 and second['top1'] > 10


def test_going_on_from_an_artifact_with_the_phase_starts_from_the_originals_kept_tensors(
        calibrated, tmp_path, image_folder):
    assert run([*RESNET, *SECOND], tmp_path, image_folder, '--start-from', str(calibrated[0])) == 0
    first, second = (load_artifact(out).results for out in (calibrated[0], tmp_path))
    assert second['expected_divergence'] < first['expected_divergence']
    assert second['top1'] >= first['top1'] - 3


def test_a_folder_of_unlabelled_images_is_enough(train, tmp_path, image_folder):
    flat = tmp_path / 'photographs'
    flat.mkdir()
    for index, path in enumerate(sorted((image_folder / 'train').rglob('*.png'))[::8]):
        shutil.copy(path, flat / f'{index}.png')
    assert train(tmp_path / 'out', flat) == 0
    results = load_artifact(tmp_path / 'out').results
    assert results['statistics_images'] == 40 and 'top1' not in results


def test_images_that_are_drawn_will_do(train, tmp_path, image_folder):
    out = tmp_path / 'out'
    shutil.rmtree(shutil.copytree(image_folder, tmp_path / 'images') / 'train')
    assert train(out, tmp_path / 'images', '--data-free', 'inversion', '--synthetic-images', '20',
                 '--synthetic-steps', '5') == 0
    results = load_artifact(out).results
    assert results['data_free'] == 'inversion' and results['statistics_images'] == 40 and results['images'] == 100


def test_its_steps_are_judged_with_the_means_that_are_stored(train, tmp_path, image_folder, monkeypatch):
    seen, judge = [], calibration.agreements_if_far_worse

    def recorded(task, tensors, alone):
        seen.extend([name for name in given if name.endswith('running_mean')] for given in (tensors, alone()))
        return judge(task, tensors, alone)

    monkeypatch.setattr(calibration, 'agreements_if_far_worse', recorded)
    assert train(tmp_path / 'out', image_folder) == 0
    assert seen and all(seen)


def test_packed_without_distillation_is_rounded_by_second_order(train, tmp_path, image_folder, capsys):
    argv = ['--bytes', '20k', '--bits', '5', '--order-over', 'axes', '--quantization-steps', '10']
    assert train(tmp_path, image_folder, *argv) == 0
    printed = capsys.readouterr().out
    assert 'by the divergence that rounding it makes' in printed and 'quantization: expected divergence' in printed
    artifact = load_artifact(tmp_path)
    assert artifact.storage.quantization
    assert artifact.results['quantization_steps'] == artifact.results['second_order_steps'] == 10
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert model.layer3[0].bn1.running_mean.isfinite().all()


def test_bits_are_settled_before_biases_are_corrected(train, resnet8, tmp_path, image_folder):
    """Bits are lowered to the budget; the means that are stored are those for the weights that are stored."""
    argv = ['--bytes', '14k', '--bits', '5', '--order-over', 'axes', '--quantization-steps', '4', '--kept-bits', '12']
    assert train(tmp_path, image_folder, *argv, '--checkpointing-steps', '500') == 0
    assert sum((tmp_path / name).stat().st_size for name in ('config.json', 'model.safetensors')) <= 14_000
    artifact = load_artifact(tmp_path)
    original = timm.create_model(resnet8[1], checkpoint_path=resnet8[3])
    tensors = load_file(tmp_path / 'checkpoints' / 'statistics.safetensors')
    name, mean = 'layer2.0.conv1.weight', tensors['layer2.0.conv1.weight/mean'].flatten()
    change = (artifact.state_dict()[name] - original.get_parameter(name)).flatten(1) @ mean
    expected = (original.layer2[0].bn1.running_mean + change).detach()
    assert torch.allclose(artifact.kept['layer2.0.bn1.running_mean'], expected, atol=2e-3 * float(expected.abs().max()))


def test_networks_whose_weights_are_all_standardized_have_no_second_order_phase(tmp_path, capsys):
    weights = tmp_path / 'weights.safetensors'
    save_file(timm.create_model('test_nfnet').state_dict(), weights)
    assert main([
        '--model', 'test_nfnet', '--initial-checkpoint', str(weights), '--reconstruction-steps', '2', '--data-free',
        'noise', '--distillation-steps', '0', '--keep', '*attn*', '*fc*', '*downsample*', '*final_conv*', '--output',
        str(tmp_path / 'out')]) == 0
    assert 'there is no second-order phase' in capsys.readouterr().out


def test_steps_that_make_it_worse_are_undone(train, tmp_path, image_folder, capsys):
    assert train(tmp_path, image_folder, '--second-order-lr', '3', '--second-order-steps', '4') == 0
    printed = capsys.readouterr().out
    assert 'so its steps are undone. Lower --second-order-lr.' in printed
    kept = load_artifact(tmp_path).results
    assert train(tmp_path / '2', image_folder, '--second-order-steps', '1', '--second-order-lr', '1e-9') == 0
    other = load_artifact(tmp_path / '2').results
    assert kept['expected_divergence'] == pytest.approx(other['expected_divergence'], rel=1e-3)


def test_resuming_within_the_phase_looks_at_no_image_again(train, tmp_path, image_folder, monkeypatch):
    argv = ['--checkpointing-steps', '5']
    assert train(tmp_path, image_folder, *argv) == 0
    uninterrupted = (tmp_path / 'model.safetensors').read_bytes()
    shutil.rmtree(tmp_path / 'checkpoints' / 'checkpoint-0000030')
    (tmp_path / 'model.safetensors').unlink()
    monkeypatch.setattr(calibration, 'collect_statistics', None)
    assert train(tmp_path, image_folder, *argv, '--resume', 'latest') == 0
    assert (tmp_path / 'model.safetensors').read_bytes() == uninterrupted


def test_too_few_images_are_refused_at_once(train, tmp_path, capsys):
    (tmp_path / 'one').mkdir()
    Image.new('RGB', (32, 32)).save(tmp_path / 'one' / 'a.png')
    assert train(tmp_path / 'out', tmp_path / 'one') == 2
    captured = capsys.readouterr()
    assert 'holds 1 training image(s), and statistics need at least 10' in captured.err
    assert captured.err.count('\n') == 1 and 'reconstruction' not in captured.out


def test_a_plan_tells_what_is_looked_at(train, tmp_path, image_folder, capsys):
    assert train(tmp_path / 'out', image_folder, '--dry-run') == 0
    assert 'statistics: 40 images, ' in capsys.readouterr().out
