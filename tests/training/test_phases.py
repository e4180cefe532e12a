"""The third phase, through timm_sbs.train.main(argv): everything rounded as the packed artifact rounds it."""
import csv
import shutil

import timm
from safetensors.torch import load_file

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader
from timm_sbs.train import main


def test_a_budget_of_bytes_gives_a_packed_artifact_of_that_size(tmp_path, resnet8, image_folder, capsys):
    """All three phases, and what was measured is what was written."""
    argv = [*resnet8, '--bytes', '20k', '--bits', '6', '--order-over', 'axes', '--reconstruction-steps', '20',
            '--data-dir', str(image_folder), '--distillation-steps', '4', '--quantization-steps', '2',
            '--eval-interval', '2', '--batch-size', '20', '--lr', '1e-3', '--workers', '0', '--output', str(tmp_path)]
    assert main(argv) == 0
    assert 'bits of each layer, by the error that rounding it makes' in capsys.readouterr().out
    assert 18_000 < sum((tmp_path / name).stat().st_size for name in ('config.json', 'model.safetensors')) <= 20_000
    artifact = load_artifact(tmp_path)
    assert artifact.storage.quantization
    assert load_artifact(tmp_path / 'last').results['quantization_steps'] == 2
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    loader = eval_loader(DataSettings(str(image_folder), batch_size=80, workers=0), model.pretrained_cfg)
    assert evaluate(model, loader).top1 == artifact.results['top1']
    with open(tmp_path / 'summary.csv', newline='') as file:
        assert [row['phase'] for row in csv.DictReader(file)] == [
            'reconstruction', *['distillation'] * 3, *['quantization'] * 2, 'validation']


def test_packing_without_images_trains_on_the_weights(tmp_path, resnet8):
    common = [*resnet8, '--pct', '10', '--bits', '4', '--order-over', 'axes', '--reconstruction-steps', '50']
    errors = {}
    for steps in (0, 50):
        out = tmp_path / str(steps)
        assert main([*common, '--quantization-steps', str(steps), '--output', str(out)]) == 0
        artifact, original = load_artifact(out), load_file(resnet8[3])
        state = artifact.state_dict()
        errors[steps] = sum(float((state[n] - original[n]).square().sum()) for n in artifact.generator.names)
    assert errors[50] < errors[0]


def test_packing_without_images_can_be_resumed(tmp_path, resnet8):
    """Killed in the third phase: the resumed run writes the same packed artifact."""
    argv = [*resnet8, '--pct', '10', '--bits', '5', '--order-over', 'axes', '--reconstruction-steps', '20',
            '--quantization-steps', '20', '--checkpointing-steps', '10', '--output', str(tmp_path)]
    assert main(argv) == 0
    uninterrupted = (tmp_path / 'model.safetensors').read_bytes()
    shutil.rmtree(tmp_path / 'checkpoints' / 'checkpoint-0000040')
    (tmp_path / 'model.safetensors').unlink()
    assert main([*argv, '--resume', 'latest']) == 0
    assert (tmp_path / 'model.safetensors').read_bytes() == uninterrupted


def test_rounded_training_on_images_can_be_resumed(tmp_path, resnet8, image_folder):
    """A packed predictor takes all image steps rounded; killed among them, it ends with the same two artifacts."""
    argv = [*resnet8, '--bytes', '20k', '--bits', '5', '--order-over', 'axes', '--reconstruction-steps', '20',
            '--data-dir', str(image_folder), '--distillation-steps', '6', '--eval-interval', '2', '-b', '20',
            '-j', '0', '--lr', '1e-3', '--checkpointing-steps', '2', '--generate', 'conv1.weight',
            '--output', str(tmp_path)]
    assert main(argv) == 0
    assert 'conv1.weight' in load_artifact(tmp_path).config.generated
    files = [tmp_path / 'model.safetensors', tmp_path / 'last' / 'model.safetensors']
    uninterrupted, results = [file.read_bytes() for file in files], load_artifact(tmp_path).results
    with open(tmp_path / 'summary.csv', newline='') as file:
        assert [row['phase'] for row in csv.DictReader(file)] == [
            'reconstruction', *['quantization'] * 4, 'validation']
    for step in (24, 26):
        shutil.rmtree(tmp_path / 'checkpoints' / f'checkpoint-00000{step}')
    files[1].unlink()
    assert main([*argv, '--resume', 'latest']) == 0
    assert [file.read_bytes() for file in files] == uninterrupted
    again, timed = load_artifact(tmp_path).results, {'reconstruction_seconds'}
    assert {**again, **dict.fromkeys(timed)} == {**results, **dict.fromkeys(timed)} and again['holdout_images'] == 40
