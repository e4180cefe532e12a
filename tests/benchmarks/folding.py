"""Folding, where several kernels are generated at each place: operations, error and accuracy at equal parameters.

    python tests/benchmarks/folding.py --data-dir CIFAR10 --weights-56 FILE

ResNet-20 and ResNet-56: each predictor is fitted by the trainer, with 20 % of the network's parameters, the same steps
and seed, and validated once, after the last step. The layers of these networks have up to 4,096 kernels, so that a
limit of 1,024 places folds the larger ones by 4, and one of 256 all of them, by 4 or 16.

ResNet-18: reconstruction alone, at 15 %, for no trained weights of it are at hand: its layers are filled with real
kernels, those of ResNet-56 in all orientations and both signs. A step takes 4,096 places, and so the same time, however
many kernels there are at each.

--networks chooses; results of the others stay. Takes 20, 50 and 25 minutes on one thread.
"""
import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, RESNET20, operations, real_kernels, with_real_kernels, write_results
from torch import nn

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.predictor.generator import Generator
from timm_sbs.train import main as train
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.reconstruction import reconstruct

MAX_PLACES = {'resnet20': (0, 1024, 256), 'resnet56': (0, 1024, 256), 'resnet18': (0, 4096, 1024)}
LARGE_STEPS = 1200  # of ResNet-18's reconstruction


def cost(max_places: int, generator: Generator) -> dict[str, Any]:
    return {
        'max_places': max_places, 'parameters': generator.num_parameters,
        'width': generator.config.predictor.width, 'places': sum(group.num_places for group in generator.groups),
        'gflop': round(operations(generator) / 1e9, 2)}


def fit(network: str, weights: Path, data_dir: str, max_places: int, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        status = train([
            '--recipe', 'cifar10', '--model', f'{network}_cifar10', '--initial-checkpoint', str(weights),
            '--data-dir', data_dir, '--output', f'{folder}/out', '--pct', '20', '--max-places', str(max_places),
            '--reconstruction-steps', str(args.reconstruction_steps),
            '--second-order-steps', '0', '--distillation-steps', str(args.steps), '--eval-interval', str(args.steps)])
        if status:
            raise SystemExit(status)
        artifact = load_artifact(f'{folder}/out')
    results = artifact.results
    return {
        **cost(max_places, artifact.generator), 'error': round(results['reconstruction_error'], 4),
        'top1': results['top1'], 'original_top1': results['original_top1']}


def fit_large(model: nn.Module, orderings: Any | None, max_places: int) -> tuple[dict[str, Any], Any]:
    chosen = design(model, pct=15., max_places=max_places)
    orderings = orderings or find_orderings(model, chosen.specs, chosen.generator.ordering)
    artifact = start_artifact(chosen, orderings, model, seed=0)
    error = reconstruct(
        artifact.generator, model.state_dict(), ReconstructionSettings(steps=LARGE_STEPS), artifact.storage)
    row = {**cost(max_places, artifact.generator), 'error': round(error, 4)}
    return row, orderings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True, type=Path)
    parser.add_argument('--networks', nargs='+', default=[*MAX_PLACES], choices=[*MAX_PLACES])
    parser.add_argument('--reconstruction-steps', type=int, default=4000)
    parser.add_argument('--steps', type=int, default=600)
    args = parser.parse_args()
    for network in args.networks:
        weights = RESNET20 if network == 'resnet20' else args.weights_56
        rows: list[dict[str, Any]] = []
        model = with_real_kernels(network, real_kernels(args.weights_56)) if network == 'resnet18' else None
        orderings = None
        for max_places in MAX_PLACES[network]:
            if model is None:
                rows.append(fit(network, weights, args.data_dir, max_places, args))
            else:
                row, orderings = fit_large(model, orderings, max_places)
                rows.append(row)
            print(network, rows[-1], flush=True)
        path = HERE / 'results' / 'folding.json'
        networks = json.loads(path.read_text())['networks'] if path.exists() else {}
        write_results('folding', {
            'command': 'python tests/benchmarks/folding.py --data-dir CIFAR10 --weights-56 FILE',
            'seed': 0, 'reconstruction_steps': args.reconstruction_steps, 'distillation_steps': args.steps,
            'large_steps': LARGE_STEPS, 'networks': {**networks, network: rows}, **environment()})


if __name__ == '__main__':
    main()
