"""Ten runs that are killed at random moments and resumed, beside one that never was: are the artifacts equal?

    python tests/benchmarks/kill_and_resume.py

ResNet-20, 300 steps of reconstruction and 40 of distillation on the demo's images, a checkpoint every 20 steps. Takes
about 7 minutes on 2 CPU cores.
"""
import sys
import tempfile
from pathlib import Path

from common import RESNET20, write_results

sys.path.insert(0, str(Path(__file__).parent.parent))
from conftest import write_demo_images
from killing import kill_and_resume

from timm_sbs.training.run.environment import environment

KILLS, SEED = 10, 0
STEPS = {'reconstruction': 300, 'distillation': 40}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        images = write_demo_images(Path(folder) / 'images', {
            'validation': range(0, 500, 5), 'train': [i for i in range(500) if i % 5]})
        argv = [
            '--model', 'resnet20_cifar10', '--initial-checkpoint', str(RESNET20), '--data-dir', str(images),
            '--reconstruction-steps', str(STEPS['reconstruction']), '--second-order-steps', '0',
            '--distillation-steps', str(STEPS['distillation']), '--seed', str(SEED), '--eval-interval', '10',
            '--batch-size', '50', '--lr', '1e-3', '--checkpointing-steps', '20', '--checkpoints-total-limit', '2']
        results = kill_and_resume(argv, Path(folder), KILLS, SEED)
    equal = sum(run['equal'] for run in results['runs'])
    killed = sum(run['was_killed'] for run in results['runs'])
    write_results('kill_and_resume', {
        'command': 'python tests/benchmarks/kill_and_resume.py', 'seed': SEED, 'steps': STEPS, 'kills': KILLS,
        'killed': killed, 'equal': equal, **results, **environment()})
    for run in results['runs']:
        print(run)
    print(f'{equal} of {KILLS} resumed runs ended with the artifacts of the uninterrupted run; {killed} were killed '
          f'before their end.')


if __name__ == '__main__':
    main()
