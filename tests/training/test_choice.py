"""What chooses the artifact that a run keeps, through timm_sbs.train.main(argv)."""
import csv
import io
from contextlib import redirect_stdout

import pytest
import torch
from torch.utils.data import IterableDataset

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.data import loaders
from timm_sbs.train import main


def run(*argv):
    """Everything that a run prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main([*map(str, argv)]) == 0
    return printed.getvalue()


def test_validation_images_choose_nothing(tmp_path, resnet8, image_folder):
    """Without them a run ends with the same tensors, and measures none of its candidates on them."""
    for name, split in (('with', 'validation'), ('without', '')):
        run(*resnet8, '--reconstruction-steps', 20, '--data-dir', image_folder, '--val-split', split, '-b', 40,
            '--distillation-steps', 4, '--eval-interval', 1, '--lr', '1e-2', '-j', 0, '--output', tmp_path / name)
    tensors = [(tmp_path / name / 'model.safetensors').read_bytes() for name in ('with', 'without')]
    assert tensors[0] == tensors[1]
    measured, others = load_artifact(tmp_path / 'with').results, load_artifact(tmp_path / 'without').results
    assert measured['holdout_divergence'] == others['holdout_divergence'] and 'top1' not in others
    with open(tmp_path / 'with' / 'summary.csv', newline='') as file:
        rows = [(row['phase'], row['top1']) for row in csv.DictReader(file)]
    assert [row for row in rows if row[1]] == [('validation', str(measured['top1']))]


@pytest.mark.parametrize('flags, count, says', [
    (['--holdout-images', '8'], 8, '8 training images are held out: of all artifacts that'),
    (['--holdout-images', '0'], None, 'No training image is held out (--holdout-images 0), so that the last')])
def test_images_without_labels_need_no_validation(tmp_path, resnet8, image_folder, flags, count, says):
    printed = run(
        *resnet8, '--reconstruction-steps', 3, '--unlabelled-dir', image_folder / 'train', '-b', 40,
        '--distillation-steps', 2, '-j', 0, '--output', tmp_path, *flags)
    results = load_artifact(tmp_path).results
    assert 'top1' not in results and results['distillation_steps'] == 2 and results.holdout_images == count
    assert says in printed


def test_a_stream_holds_nothing_out(tmp_path, resnet8, monkeypatch):
    """Its last artifact is kept, whatever happens."""
    class Stream(IterableDataset):
        transform = None

        def __iter__(self):
            return iter([(torch.zeros(3, 32, 32), 0)] * 8)

    monkeypatch.setattr(loaders, 'open_training_images', lambda *_: Stream())
    printed = run(
        *resnet8, '--reconstruction-steps', 3, '--dataset', 'wds/any', '--val-split', '', '-b', 8, '-j', 0,
        '--distillation-steps', 2, '--output', tmp_path)
    assert 'No training image is held out (the training images are a stream)' in printed
    assert load_artifact(tmp_path).results == load_artifact(tmp_path / 'last').results


def test_data_free_without_any_images_needs_no_validation(tmp_path, resnet8):
    printed = run(
        *resnet8, '--reconstruction-steps', 5, '--data-free', 'noise', '--distillation-steps', 3, '-b', 8,
        '--eval-interval', 2, '--workers', 0, '--output', tmp_path)
    assert 'No training image is held out (the images are drawn), so that the last artifact is kept.' in printed
    results = load_artifact(tmp_path).results
    assert results['distillation_steps'] == 3 and 'top1' not in results
    assert (tmp_path / 'last' / 'model.safetensors').read_bytes() == (tmp_path / 'model.safetensors').read_bytes()
