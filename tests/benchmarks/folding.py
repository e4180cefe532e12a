"""Folding, where several kernels are generated at each place: operations, error and accuracy at equal parameters.

    python tests/benchmarks/folding.py --data-dir CIFAR10 --weights-56 FILE

ResNet-20 and ResNet-56: each predictor is fitted by train_sbs.py, with 20 % of the network's parameters, the same steps
and seed, and validated once, after the last step. The layers of these networks have up to 4,096 kernels, so that a
limit of 1,024 places folds the larger ones by 4, and one of 256 all of them, by 4 or 16.

ResNet-18: reconstruction alone, at 15 %, for no trained weights of it are at hand: its layers are filled with real
kernels, those of ResNet-56 in all orientations and both signs. A step takes 4,096 places, and so the same time, however
many kernels there are at each.

--networks chooses; results of the others stay. Takes 20, 50 and 25 minutes on one thread.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from common import HERE, RESNET20, operations, real_kernels, with_real_kernels, write_results
from torch import nn

from timm_sbs.artifact import load_artifact
from timm_sbs.generate import GenerationPlan, make_plan
from timm_sbs.predictor import Predictor
from timm_sbs.training.environment import environment
from timm_sbs.training.fit import design, start_fit
from timm_sbs.training.orderings import find_orderings
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.settings import ReconstructionSettings

sys.path.insert(0, str(HERE.parents[1]))
import train_sbs  # noqa: E402

MAX_PLACES = {'resnet20': (0, 1024, 256), 'resnet56': (0, 1024, 256), 'resnet18': (0, 4096, 1024)}
LARGE_STEPS = 1200  # of ResNet-18's reconstruction


def cost(max_places: int, predictor: Predictor, plan: GenerationPlan) -> Dict[str, Any]:
    return {
        'max_places': max_places, 'parameters': sum(p.numel() for p in predictor.parameters()),
        'width': predictor.config.width, 'places': sum(group.num_places for group in plan.groups),
        'gflop': round(operations(predictor, plan) / 1e9, 2)}


def fit(network: str, weights: Path, data_dir: str, max_places: int, args: argparse.Namespace) -> Dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        train_sbs.main([
            '--recipe', 'cifar10', '--model', f'{network}_cifar10', '--initial-checkpoint', str(weights),
            '--data-dir', data_dir, '--output', f'{folder}/out', '--pct', '20', '--max-places', str(max_places),
            '--reconstruction-steps', str(args.reconstruction_steps),
            '--second-order-steps', '0', '--distillation-steps', str(args.steps), '--eval-interval', str(args.steps)])
        artifact = load_artifact(f'{folder}/out')
    plan = make_plan(artifact.config, artifact.specs, artifact.permutations, artifact.frequencies)
    results = artifact.config.results
    return {
        **cost(max_places, artifact.predictor, plan), 'error': round(results['reconstruction_error'], 4),
        'top1': results['top1'], 'original_top1': results['original_top1']}


def fit_large(model: nn.Module, orderings: Optional[Any], max_places: int) -> Tuple[Dict[str, Any], Any]:
    config, pretrained_cfg, specs = design(model, pct=15., max_places=max_places)
    orderings = orderings or find_orderings(model, specs, config.ordering)
    fitted = start_fit(config, pretrained_cfg, specs, orderings, seed=0)
    results = reconstruct(
        fitted.predictor, fitted.plan, model.state_dict(), ReconstructionSettings(steps=LARGE_STEPS))
    row = {**cost(max_places, fitted.predictor, fitted.plan), 'error': round(results['reconstruction_error'], 4)}
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
        rows: List[Dict[str, Any]] = []
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
