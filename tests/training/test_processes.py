"""The trainer on two processes does what it does on one, with half of the images and kernels each."""
import json
from pathlib import Path

import killing
import phases_worker
import pytest
from conftest import file_bytes, flags, rows_of
from processes import launch, run

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.training.fit import fit

TRAINER = Path(killing.__file__), 1_000_000  # which is never killed


def test_two_processes_share_kernels_and_images(resnet8):
    """The same batches, so the same results up to what is drawn at random."""
    weights = resnet8['initial_checkpoint']
    one = phases_worker.measured(make_accelerator('no', cpu=True), weights)
    two = json.loads(launch(2, Path(phases_worker.__file__), weights).splitlines()[-1])
    assert two['processes_agree'] and two['error'] == pytest.approx(one['error'], rel=0.02)
    assert one['kernels'][0] == sum(two['kernels']) == 2 * two['kernels'][0]
    assert one['images'] == two['images'] == 100
    for name, energy in one['energies'].items():
        assert two['energies'][name] == pytest.approx(energy, rel=0.2)
    assert two['after'] == pytest.approx(one['after'], rel=1e-2) and one['after'] < one['before']


def test_whole_runs_on_two_processes(resnet8, tmp_path, image_folder):
    """With stored statistics, two half batches on two processes are one batch."""
    common = {**resnet8, 'keep': ['layer3.*'], 'pct': 10, 'data_dir': image_folder, 'reconstruction_steps': 40,
              'distillation_steps': 4, 'workers': 0, 'lr': 3e-4, 'checkpointing_steps': 2, 'no_aug': True}
    (tmp_path / 'c.yaml').write_text('eval_interval: 2\ntrain_statistics: false\n')
    one = fit(**common, config=tmp_path / 'c.yaml', batch_size=40, output=tmp_path / 'one', quiet=True).results
    argv = flags(**common, config=tmp_path / 'c.yaml', batch_size=20, output=tmp_path / 'two')
    launch(2, *TRAINER, *argv)
    two = load_artifact(tmp_path / 'two').results
    assert two['reconstruction_error'] == pytest.approx(one['reconstruction_error'], rel=0.02)
    assert (two['original_top1'], two['images'], two['holdout_images']) == (one['original_top1'], 100, 40)
    assert two['holdout_divergence'] == pytest.approx(one['holdout_divergence'], rel=0.1)
    assert two['distillation_steps'] == 4 and two['hardware'].startswith('2 processes')
    resumed = run(*TRAINER, *argv, '--resume', 'latest')
    assert resumed.returncode == 2 and 'num_processes = 2, but this run has 1' in resumed.stderr


def test_two_processes_round_into_so_many_bytes(resnet8, tmp_path, image_folder):
    printed = launch(2, *TRAINER, *flags(**{
        **resnet8, 'second_order_steps': 1, 'keep': ['layer[23].*'], 'bytes': 66_000, 'images': image_folder / 'train',
        'statistics_images': 40, 'distillation_steps': 2, 'batch_size': 10, 'workers': 0, 'lr': 1e-5,
        'output': tmp_path}))
    assert printed.count('rounding: expected divergence') == 1
    assert file_bytes(tmp_path) <= 66_000
    assert [row['phase'] for row in rows_of(tmp_path)] == ['rounding', 'distillation']
