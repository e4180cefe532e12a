"""What a run does before its first step, and what it closes in any case."""
import copy
import runpy
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from conftest import REPOSITORY, RESNET, fit_quickly

from timm_sbs.artifact.folder import load_artifact, read_config, save_artifact
from timm_sbs.artifact.original import load_original
from timm_sbs.codec import tensor_file
from timm_sbs.common.errors import SbsError
from timm_sbs.train import main
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import parse_args
from timm_sbs.training.run import train as train_module
from timm_sbs.training.run.train import train


@pytest.fixture(scope='module')
def arguments(resnet8):
    """Those of a run of one step, and more."""
    return lambda *argv: parse_args(
        build_parser(), [*resnet8, '--pct', '5', '--reconstruction-steps', '1', *map(str, argv)])


@pytest.fixture()
def ended(monkeypatch):
    """Each time that accelerate was told that training has ended."""
    calls, end = [], Accelerator.end_training
    monkeypatch.setattr(Accelerator, 'end_training', lambda self: (calls.append(self), end(self)))
    return calls


def test_trackers_and_processes_are_closed_whether_it_works_or_not(ended, arguments, tmp_path, monkeypatch):
    train(arguments('--output', tmp_path / 'a'))
    assert len(ended) == 1
    monkeypatch.setattr(train_module, 'reconstruction_phase', lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(arguments('--output', tmp_path / 'b'))
    with pytest.raises(SbsError, match='has no model'):
        train(arguments('--model', 'resnet19', '--output', tmp_path / 'c'))
    assert len(ended) == 3


def test_a_folder_s_name_is_no_data_set_s_name(image_folder, arguments, tmp_path):
    """A card says which data set the images are of only where somebody has said so."""
    short = ('--data-dir', image_folder, '--workers', 0, '--distillation-steps', 0, '--batch-size', 50)
    train(arguments(*short, '--output', tmp_path / 'a'))
    train(arguments(*short, '--output', tmp_path / 'b', '--hub-dataset', 'cifar10'))
    first, second = (read_config(tmp_path / name)[0].results for name in 'ab')
    assert first.dataset is None and second.dataset == 'cifar10'


def test_orderings_and_checkpoints_of_other_weights_are_not_gone_on_from(arguments, tmp_path, resnet8):
    """A run's settings are the same, but the original's weights are not."""
    original = load_original(resnet8[1], resnet8[3])
    other = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter.flip(0))
    flags = ('--checkpointing-steps', 1, '--output', tmp_path / 'out')
    train(arguments(*flags), original)
    with pytest.raises(SbsError, match='from an original with other weights'):
        train(arguments(*flags, '--resume', 'latest'), other)
    shutil.rmtree(tmp_path / 'out' / 'checkpoints' / 'checkpoint-0000001')  # what is left are the orderings
    train(arguments(*flags), other)
    train(arguments('--output', tmp_path / 'fresh'), other)
    again, fresh = (load_artifact(tmp_path / name).generator.permutations for name in ('out', 'fresh'))
    assert all(np.array_equal(a, b) for found, rows in zip(again, fresh) for a, b in zip(found, rows))


def test_labels_that_are_used_must_be_the_model_s(arguments, tmp_path, image_folder):
    shutil.copytree(image_folder / 'train' / 'cat', tmp_path / 'images' / 'train' / 'cat')
    argv = ('--data-dir', tmp_path / 'images', '--distillation-steps', 1, '--batch-size', 2, '--workers', 0,
            '--output', tmp_path / 'out')
    with pytest.raises(SbsError, match="Split 'train' of .* holds 1 classes, but the model has 10"):
        train(arguments(*argv, '--label-weight', 1))
    train(arguments(*argv))  # without labels they may be any


def test_rounding_without_images_is_told_as_what_it_is(arguments, tmp_path):
    train(arguments('--output', tmp_path, '--bits', 4, '--reconstruction-steps', 3, '--quantization-steps', 2))
    results = read_config(tmp_path)[0].results
    assert (results.reconstruction_steps, results.quantization_steps) == (3, 2)
    assert results.reconstruction_error != results.quantization_error > 0


def test_outputs_on_drawn_images_are_not_kept_for_others(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr('timm_sbs.training.run.phases.original_outputs', lambda *_: pytest.fail('they were kept'))
    train(arguments('--output', tmp_path, '--data-free', 'noise', '--no-aug', '--distillation-steps', 1,
                    '--batch-size', 2, '--workers', 0))


def test_what_a_run_starts_from_has_one_description(resnet8, tmp_path):
    """Images are normalised as the artifact will say: as the original's own description does, not an older one."""
    save_artifact(tmp_path / 'a', fit_quickly(load_original(resnet8[1], resnet8[3]), steps=1))
    config = load_artifact(tmp_path / 'a')
    config.base.pretrained_cfg.update(mean=[0.1, 0.2, 0.3], license='mit')
    save_artifact(tmp_path / 'a', config)
    seen = []
    original = train_module.open_start

    def watched(*args):
        seen.append(original(*args))
        return seen[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, 'open_start', watched)
        train(parse_args(build_parser(), [*resnet8, '--reconstruction-steps', '1', '--start-from', str(tmp_path / 'a'),
                                          '--output', str(tmp_path / 'b')]))
    written = read_config(tmp_path / 'b')[1]
    expected = timm.create_model(resnet8[1]).pretrained_cfg['mean']
    assert seen[0].design.base is seen[0].source.base
    assert tuple(written['mean']) == tuple(seen[0].design.base.pretrained_cfg['mean']) == tuple(expected)
    assert written['license'] == 'mit'


def test_unwritable_output_is_found_before_the_work(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert main([*RESNET, '--output', str(tmp_path / 'file' / 'out')]) == 2
    captured = capsys.readouterr()
    assert 'Cannot write to --output' in captured.err and not captured.out


def test_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit):
        main([*RESNET, '--output', 'x', '--recon', '3'])
    assert '--recon' in capsys.readouterr().err


@pytest.mark.parametrize('script', [REPOSITORY / 'timm_sbs' / 'train.py', REPOSITORY / 'train_sbs.py'])
def test_script_runs_by_itself_and_its_help_teaches(script, monkeypatch, capsys):
    monkeypatch.setenv('COLUMNS', '120')
    monkeypatch.setattr(sys, 'argv', [str(script), '--help'])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name='__main__')
    assert not ended.value.code
    shown = capsys.readouterr().out
    for text in ('accelerate launch -m timm_sbs.train', 'local-dir:', '--pct', 'original model', 'distillation'):
        assert text in shown


def test_orderings_are_coded_once_in_a_run(arguments, tmp_path, image_folder, monkeypatch):
    """For the budget, and for the best and the last artifact of each validation."""
    coded = []
    original = tensor_file.encode_permutations
    monkeypatch.setattr(tensor_file, 'encode_permutations', lambda rows: (coded.append(rows), original(rows))[1])
    train(arguments('--data-dir', image_folder, '--workers', 0, '--distillation-steps', 2, '--eval-interval', 1,
                    '--batch-size', 20, '--bits', 6, '--output', tmp_path))
    assert len(coded) == 1
