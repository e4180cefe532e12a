import csv

import pytest
import torch
from accelerate import Accelerator

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.training.run.checkpoints import Checkpoints
from timm_sbs.training.run.run import PhaseMonitor, Run


@pytest.fixture()
def accelerator():
    return Accelerator(cpu=True)


def run_of(tmp_path, accelerator, checkpoint=None, every=None):
    return Run(tmp_path, accelerator, Checkpoints(tmp_path, accelerator, {}, every), {'seed': 3}, checkpoint)


def rows(tmp_path):
    with open(tmp_path / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_the_best_artifact_stays_and_the_last_is_beside_it(tmp_path, accelerator, small_artifact):
    run = run_of(tmp_path, accelerator)
    for divergence, agreement in ((0.2, 90.), (0.1, 92.), (0.15, 93.)):
        run.results.update(holdout_divergence=divergence, holdout_agreement=agreement)
        run.keep(small_artifact.with_results)
    assert load_artifact(tmp_path).results == run.best == {
        'seed': 3, 'holdout_divergence': 0.1, 'holdout_agreement': 92.}
    assert load_artifact(tmp_path / 'last').results['holdout_divergence'] == 0.15
    run.add_row({'phase': 'distillation', 'step': 7})
    assert rows(tmp_path)[0]['best_holdout_divergence'] == '0.1'


def test_where_nothing_is_held_out_the_last_is_the_best(tmp_path, accelerator, small_artifact):
    run = run_of(tmp_path, accelerator)
    for error in (0.2, 0.3):
        run.results['reconstruction_error'] = error
        run.keep(small_artifact.with_results)
    assert load_artifact(tmp_path).results['reconstruction_error'] == 0.3


def test_a_phase_writes_rows_and_checkpoints_and_goes_on(tmp_path, accelerator):
    run = run_of(tmp_path, accelerator, every=2)
    value = torch.zeros(1)
    monitor = PhaseMonitor(
        run, 'distillation', lambda: {'x': value}, lambda tensors: None, steps_before=100,
        measure=lambda step: {'holdout_agreement': 50. + step})
    assert monitor.resume() == 0
    for step in range(1, 6):
        value = value + 1
        monitor.log(step, {'loss': 1 / step, 'lr': 0.1})
        if step == 4:
            monitor.measure(step)
        monitor.step_done(step)
    assert [(row['phase'], row['step'], row['loss'], row['holdout_agreement']) for row in rows(tmp_path)] == [
        ('distillation', '4', '0.25', '54.0')]

    checkpoint = run.checkpoints.open('latest')
    assert checkpoint.folder.name == 'checkpoint-0000104'
    again = run_of(tmp_path, accelerator, checkpoint)
    assert again.is_in('distillation') and not again.is_in('reconstruction') and again.results == {'seed': 3}
    loaded = {}
    monitor = PhaseMonitor(again, 'distillation', dict, loaded.update, 100)
    assert monitor.resume() == 4 and loaded['x'].item() == 4.
    assert PhaseMonitor(again, 'reconstruction', dict, loaded.update).resume() == 0
    again.add_row({'phase': 'distillation', 'step': 5})
    assert [row['step'] for row in rows(tmp_path)] == ['4', '5']  # the row of before is neither lost nor doubled
    assert again.seconds >= run.checkpoints.open('latest').progress['seconds']
