"""Runs that are killed and resumed end as if nothing had happened. tests/benchmarks/kill_and_resume.py kills ten."""
import pytest
from conftest import RESNET
from killing import digests, kill_and_resume, killed_after

from timm_sbs.train import main


def flags(image_folder, reconstruction, second_order, distillation, every):
    return ['--data-dir', str(image_folder), '--reconstruction-steps', str(reconstruction),
            '--second-order-steps', str(second_order), '--statistics-images', '50',
            '--distillation-steps', str(distillation), '--eval-interval', '4', '--lr', '1e-3', '--mixup', '1',
            '--train-size', '24', '32', '--feature-weight', '0.5',
            '--checkpointing-steps', str(every), '--checkpoints-total-limit', '2']


def test_a_killed_run_ends_with_the_artifacts_of_an_uninterrupted_one(tmp_path, resnet8, image_folder):
    """It dies while it distils, two steps after a checkpoint."""
    argv = [*resnet8, *flags(image_folder, 8, 4, 8, every=4), '-b', '10', '-j', '0']
    assert main([*argv, '--output', str(tmp_path / 'whole')]) == 0
    again = [*argv, '--output', str(tmp_path / 'killed'), '--resume', 'latest']
    killed_after(18, again)
    found = sorted(path.name for path in (tmp_path / 'killed' / 'checkpoints').glob('checkpoint-*'))
    assert found == ['checkpoint-0000012', 'checkpoint-0000016']
    assert main(again) == 0
    assert digests(tmp_path / 'killed') == digests(tmp_path / 'whole')


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_artifacts_of_an_uninterrupted_one(tmp_path, image_folder):
    argv = [*RESNET, *flags(image_folder, 100, 30, 16, every=10), '-b', '40']
    results = kill_and_resume(argv, tmp_path, kills=3)
    assert all(run['equal'] for run in results['runs']), results
    assert any(run['was_killed'] and run['checkpoint'] for run in results['runs']), results
