"""Runs that are stopped and resumed end as if nothing had happened, in whatever phase it was, bit by bit."""
import itertools
import signal
from pathlib import Path

import killing
import pytest
import yaml
from conftest import rows_of
from processes import run

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.training import train
from timm_sbs.training.fit import fit
from timm_sbs.training.run import Run

COMMON = dict(keep=['layer3.*'], pct=10, batch_size=10, workers=0, statistics_images=40, lr=1e-3, eval_interval=4,
              checkpointing_steps=3, reconstruction_steps=4, distillation_steps=0)
IMAGES, DRAWN = 'read', dict(data_free=True, synthetic_images=20, synthetic_steps=2)
# What is asked for, and after how many steps of all phases a run is stopped: two after a checkpoint.
CASES = {
    'reconstruction': (dict(reconstruction_steps=8), 5),
    'second order': (dict(images=IMAGES, second_order_steps=8), 4 + 5),
    'distillation': (
        dict(images=IMAGES, distillation_steps=8, mixup=1., train_size=[24, 32], feature_weight=0.5), 4 + 5),
    'quantization': (dict(bits=4, reconstruction_steps=8, order_over='axes'), 8 + 5),
    'quantized distillation': (dict(bits=4, distillation_steps=8, **DRAWN), 4 + 5),
    'rounding': (dict(pct=None, bytes='66k', keep=['layer[23].*'], images=IMAGES, second_order_steps=1,
                      distillation_steps=5, rounding_lr=0.1, lr=1e-5), 4)}


def end_of(folder):
    """What a run has led to, without times."""
    rows = [{**row, 'seconds': ''} for row in rows_of(folder)]
    return (folder / 'model.safetensors').read_bytes(), rows, load_artifact(folder).results


@pytest.mark.parametrize('case', CASES)
def test_a_run_that_is_stopped_in_any_phase(resnet8, tmp_path, image_folder, monkeypatch, capsys, case):
    """What was computed once, such as statistics, is not computed again."""
    settings, steps = CASES[case]
    settings = {**resnet8, **COMMON, **settings}
    if settings.get('images') == IMAGES:
        settings['images'] = image_folder / 'train'
    fit(**settings, output=tmp_path / 'whole', quiet=True)
    done, step_done = itertools.count(1), Run.step_done

    def interrupted(run, *step):
        step_done(run, *step)
        if next(done) == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, 'step_done', interrupted)
        fit(**settings, output=tmp_path / 'stopped', quiet=True)
    for name in ('collect_statistics', 'find_orderings'):
        monkeypatch.setattr(train, name, lambda *_: pytest.fail('it was computed again'))
    monkeypatch.setattr('timm_sbs.training.images.invert', lambda *_: pytest.fail('it was computed again'))
    capsys.readouterr()
    fit(**settings, output=tmp_path / 'stopped', resume='latest')
    assert f"continuing from {tmp_path / 'stopped' / 'checkpoints' / 'checkpoint-'}" in capsys.readouterr().out
    assert end_of(tmp_path / 'stopped') == end_of(tmp_path / 'whole')


def test_a_process_that_is_killed(resnet8, tmp_path, image_folder):
    settings, steps = {**resnet8, **COMMON, **CASES['distillation'][0]}, CASES['distillation'][1]
    path = tmp_path / 'c.yaml'
    path.write_text(yaml.safe_dump({**settings, 'images': [str(image_folder / 'train')]}))
    whole, killed = (['--config', path, '--output', tmp_path / name] for name in ('whole', 'killed'))
    never = 1_000_000
    assert run(Path(killing.__file__), never, *whole).returncode == 0
    assert run(Path(killing.__file__), steps, *killed, '--resume', 'latest').returncode == -signal.SIGKILL
    assert (tmp_path / 'killed' / 'checkpoints').is_dir()
    assert run(Path(killing.__file__), never, *killed, '--resume', 'latest').returncode == 0
    assert end_of(tmp_path / 'killed') == end_of(tmp_path / 'whole')


def test_a_run_that_has_ended_is_not_begun_again(resnet8, tmp_path):
    settings = dict(**resnet8, **COMMON, output=tmp_path, quiet=True)
    fit(**settings)
    before = end_of(tmp_path)
    fit(**settings, resume='latest')
    assert end_of(tmp_path) == before
