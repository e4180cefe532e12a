"""Runs that are killed and resumed end as if nothing had happened. tests/benchmarks/kill_and_resume.py kills ten."""
from conftest import RESNET
from killing import kill_and_resume


def test_killed_runs_end_with_the_artifacts_of_an_uninterrupted_one(tmp_path, image_folder):
    argv = [*RESNET, '--data-dir', str(image_folder), '--reconstruction-steps', '100', '--second-order-steps', '30',
            '--statistics-images', '50', '--distillation-steps', '16', '--eval-interval', '4', '--batch-size', '40',
            '--lr', '1e-3', '--mixup', '1', '--train-size', '24', '32', '--checkpointing-steps', '10',
            '--checkpoints-total-limit', '2']
    results = kill_and_resume(argv, tmp_path, kills=3)
    assert all(run['equal'] for run in results['runs']), results
    assert any(run['was_killed'] and run['checkpoint'] for run in results['runs']), results
