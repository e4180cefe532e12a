"""ResNet-20 at 20 % without any image: reconstruction alone, then distillation on synthetic images of several kinds.

    python tests/benchmarks/data_free.py --data-dir CIFAR10

The 10,000 CIFAR-10 test images in CIFAR10/validation only measure. White noise is here as the baseline of NeRN's
data-free runs. Runs the trainer for each kind and seed. Takes about 6 minutes on 2 CPU cores.
"""
import argparse
import json
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from common import RESNET20, write_results

from timm_sbs.artifact.folder import read_config
from timm_sbs.common.results import Results
from timm_sbs.data import synthetic
from timm_sbs.train import main as train
from timm_sbs.training.run import images
from timm_sbs.training.run.environment import environment


class WhiteNoise(synthetic.NoiseImages):
    def __getitem__(self, index: int) -> Any:
        return torch.randn(self.data_config['input_size']), 0


def fit(kind: str | None, seed: int, steps: int, data_dir: str) -> Results:
    """Results of distillation on images of a kind; None: of reconstruction alone."""
    drawn = ['--data-free', 'inversion' if kind == 'inversion' else 'noise'] if kind else []
    with tempfile.TemporaryDirectory() as folder:
        images.NoiseImages = WhiteNoise if kind == 'white noise' else synthetic.NoiseImages
        status = train([
            '--model', 'resnet20_cifar10', '--initial-checkpoint', str(RESNET20), '--pct', '20', '--seed', str(seed),
            '--data-dir', data_dir, *drawn, '--second-order-steps', '0',
            '--distillation-steps', str(steps if kind else 0), *(['--eval-interval', str(steps)] if kind else []),
            '--mixed-precision', 'bf16', '--output', folder])
        if status:
            raise SystemExit(status)
        return read_config(folder)[0].results


def fits(kind: str, alone: Mapping[int, Results], steps: int, data_dir: str) -> list[dict[str, Any]]:
    """Of a kind of images, for each seed, beside reconstruction alone. No drawn image is held out: the last is kept."""
    return [{
        'reconstruction_error': before['reconstruction_error'], 'reconstruction_top1': before['top1'],
        'last_top1': fit(kind, seed, steps, data_dir)['top1']} for seed, before in alone.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    args = parser.parse_args()
    kinds = ('white noise', 'noise', 'inversion')
    alone = {seed: fit(None, seed, args.steps, args.data_dir) for seed in args.seeds}
    runs = {kind: fits(kind, alone, args.steps, args.data_dir) for kind in kinds}
    results = {
        'command': 'python tests/benchmarks/data_free.py --data-dir CIFAR10', 'steps': args.steps, 'seeds': args.seeds,
        'pct': 20, **runs, **environment()}
    write_results('data_free_resnet20', results)
    print(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
