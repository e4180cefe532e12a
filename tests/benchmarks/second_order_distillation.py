"""Distillation of ResNet-20 at 20 %, from reconstruction alone and from second-order reconstruction.

    python tests/benchmarks/second_order_distillation.py --data-dir CIFAR10

CIFAR10 is an ImageFolder with 'train' and 'validation' (the 10,000 test images). Both runs are those of train_sbs.py
with the cifar10 recipe's losses and rate, the same seed and the same images in the same order, and are measured every
so many steps. Takes about 10 minutes on 2 CPU cores.
"""
import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

from common import RESNET20, write_results

from timm_sbs.artifact import read_config
from timm_sbs.training.environment import environment

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
import train_sbs  # noqa: E402


def distil(args: argparse.Namespace, second_order_steps: int) -> Dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if train_sbs.main([
                '--recipe', 'cifar10', '--model', 'resnet20_cifar10', '--initial-checkpoint', str(RESNET20),
                '--data-dir', args.data_dir, '--second-order-steps', str(second_order_steps),
                '--distillation-steps', str(args.steps), '--eval-interval', str(args.every), '--output', folder]):
            raise SystemExit('the run failed')
        results = read_config(Path(folder) / 'last')[0].results
        with open(Path(folder) / 'summary.csv', newline='') as file:
            rows = [row for row in csv.DictReader(file) if row['phase'] == 'distillation']
    start = results['second_order_top1' if second_order_steps else 'reconstruction_top1']
    curve = {'0': start, **{row['step']: float(row['top1']) for row in rows}}
    reached = [int(step) for step, top1 in curve.items() if top1 >= args.target]
    return {'second_order_steps': second_order_steps, 'top1': curve, 'steps_to_target': min(reached, default=None),
            'precision': results['mixed_precision']}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--every', type=int, default=50)
    parser.add_argument('--second-order-steps', type=int, default=3000)
    parser.add_argument('--target', type=float, default=91.4)
    args = parser.parse_args()
    results = {
        'command': 'python tests/benchmarks/second_order_distillation.py --data-dir CIFAR10', 'seed': 0, 'pct': 20,
        'steps': args.steps, 'target': args.target, 'from_reconstruction': distil(args, 0),
        'from_second_order': distil(args, args.second_order_steps), **environment()}
    write_results('second_order_distillation', results)
    print(results)


if __name__ == '__main__':
    main()
