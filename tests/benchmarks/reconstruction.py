"""Reconstruction alone, without data: accuracy and time of the default predictor, and of NeRN's configuration.

    python tests/benchmarks/reconstruction.py --data-dir CIFAR10

CIFAR10 is an ImageFolder with a 'validation' split of the 10,000 CIFAR-10 test images. Both configurations get the
same parameters, steps, batch size and original weights (tests/data). NeRN's learning rate is the best of several,
ours is the trainer's default. Takes about 6 minutes on 2 CPU cores.
"""
import argparse
import time
from typing import Any

import timm
import torch
from common import NERN, RESNET20, write_results

from timm_sbs.artifact.original import load_original
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.reconstruction import reconstruct

NERN_LEARNING_RATES = (5e-4, 5e-3, 2e-2, 5e-2)


def measure(original: torch.nn.Module, loader: Any, pct: float, steps: int, lr: float, seed: int,
            **settings: Any) -> dict[str, Any]:
    """Fit once, as the trainer does, and evaluate the generated network."""
    started = time.perf_counter()
    chosen = design(original, pct=pct, **settings)
    permutations = find_orderings(original, chosen.specs, chosen.generator.ordering)
    ordered = time.perf_counter()
    artifact = start_artifact(chosen, permutations, original, seed)
    error = reconstruct(
        artifact.generator, original.state_dict(), ReconstructionSettings(steps=steps, lr=lr), artifact.storage, seed)
    done = time.perf_counter()
    model = timm.create_model('resnet20_cifar10')
    model.load_state_dict(artifact.state_dict())
    return {
        'reconstruction_error': error, 'top1': evaluate(model, loader).top1, 'lr': lr,
        'parameters': chosen.num_parameters,
        'ordering_seconds': round(ordered - started, 1), 'training_seconds': round(done - ordered, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--pct', type=float, default=20.)
    parser.add_argument('--steps', type=int, default=ReconstructionSettings.steps)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    args = parser.parse_args()
    original = load_original('resnet20_cifar10', str(RESNET20))
    loader = eval_loader(DataSettings(args.data_dir, batch_size=250), original.pretrained_cfg)

    ours = [measure(original, loader, args.pct, args.steps, ReconstructionSettings.lr, seed) for seed in args.seeds]
    nerns = [measure(original, loader, args.pct, args.steps, lr, args.seeds[0], **NERN) for lr in NERN_LEARNING_RATES]
    results = {
        'command': f'python tests/benchmarks/reconstruction.py --data-dir CIFAR10 --steps {args.steps}',
        'steps': args.steps, 'seeds': args.seeds, 'pct': args.pct,
        'original_top1': evaluate(original, loader).top1,
        'uos_rff': ours,
        'nern': min(nerns, key=lambda run: run['reconstruction_error']),
        'nern_all_learning_rates': nerns,
        **environment(),
    }
    write_results('reconstruction_resnet20', results)
    for name, run in [*((f'UOS-RFF, seed {s}', r) for s, r in zip(args.seeds, ours)), ('NeRN', results['nern'])]:
        print(f"{name:<16} error {run['reconstruction_error']:.4f}  top-1 {run['top1']:5.2f} %  "
              f"ordering {run['ordering_seconds']} s  training {run['training_seconds']} s")


if __name__ == '__main__':
    main()
