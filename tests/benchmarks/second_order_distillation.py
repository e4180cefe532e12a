"""Distillation of ResNet-20 at 20 %, from reconstruction alone and from second-order reconstruction.

    python tests/benchmarks/second_order_distillation.py --data-dir CIFAR10

CIFAR10 is an ImageFolder with 'train' and 'validation' (the 10,000 test images). All runs are the trainer's with the
cifar10 recipe's losses and rate, the same seed and the same images in the same order, and are measured every so many
steps. The third keeps BatchNorm's statistics as the second-order phase has corrected them. Takes about 15 minutes on 2
CPU cores.
"""
import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import HERE, RESNET20, top1_at_each_look, write_results

from timm_sbs.artifact.folder import read_config
from timm_sbs.artifact.original import load_original
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader
from timm_sbs.train import main as train
from timm_sbs.training.run.environment import environment

SECOND_ORDER_STEPS = 3000
FIXED = ('norm', 'stem', 'classifier', 'other')  # all that may be trained, but for BatchNorm's statistics
RUNS = {
    'from_reconstruction': (0, ()),
    'from_second_order': (SECOND_ORDER_STEPS, ()),
    'from_second_order_fixed': (SECOND_ORDER_STEPS, FIXED),
}


def distil(args: argparse.Namespace, second_order_steps: int, train_kept: Sequence[str]) -> dict[str, Any]:
    original = load_original('resnet20_cifar10', str(RESNET20))
    validation = list(eval_loader(DataSettings(args.data_dir), original.pretrained_cfg))
    with tempfile.TemporaryDirectory() as folder, top1_at_each_look(validation) as found:
        if train([
                '--recipe', 'cifar10', '--model', 'resnet20_cifar10', '--initial-checkpoint', str(RESNET20),
                '--data-dir', args.data_dir, '--second-order-steps', str(second_order_steps),
                '--distillation-steps', str(args.steps), '--eval-interval', str(args.every), '--output', folder,
                *(['--train-kept', *train_kept] if train_kept else [])]):
            raise SystemExit('the run failed')
        results = read_config(Path(folder) / 'last')[0].results
        with open(Path(folder) / 'summary.csv', newline='') as file:
            looks = [row for row in csv.DictReader(file) if row['holdout_divergence']]
    curve = {row['step']: top1 for row, top1 in zip(looks, found) if row['phase'] == 'distillation'}
    reached = [int(step) for step, top1 in curve.items() if top1 >= args.target]
    return {'second_order_steps': second_order_steps, 'top1': curve, 'steps_to_target': min(reached, default=None),
            'precision': results['mixed_precision']}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--every', type=int, default=50)
    parser.add_argument('--only', nargs='+', choices=RUNS, default=RUNS, help='take these runs, and keep all others')
    parser.add_argument('--target', type=float, default=91.4)
    args = parser.parse_args()
    results = {
        'command': 'python tests/benchmarks/second_order_distillation.py --data-dir CIFAR10', 'seed': 0, 'pct': 20,
        'steps': args.steps, 'target': args.target, **environment()}
    path = HERE / 'results' / 'second_order_distillation.json'
    if path.exists():
        results = {**json.loads(path.read_text()), **results}
    for name in args.only:
        results[name] = distil(args, *RUNS[name])
    write_results('second_order_distillation', results)
    print(results)


if __name__ == '__main__':
    main()
