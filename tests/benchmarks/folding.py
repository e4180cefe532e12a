"""Folding, where several kernels are generated at each place: operations, error and accuracy at equal parameters.

    python tests/benchmarks/folding.py --data-dir CIFAR10 --weights-56 FILE [--networks resnet20 resnet56]

Each predictor is fitted by train_sbs.py, with 20 % of the network's parameters, the same steps and seed, and validated
once, after the last step. The layers of these networks have up to 4,096 kernels, so that a limit of 1,024 places folds
the larger ones by 4, and one of 256 all of them, by 4 or 16. A network's results replace those of an earlier run. Takes
about 20 minutes for ResNet-20 and an hour for ResNet-56 on one thread.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

from common import HERE, RESNET20, write_results

from timm_sbs.artifact import load_artifact
from timm_sbs.generate import make_plan
from timm_sbs.training.environment import environment

sys.path.insert(0, str(HERE.parents[1]))
import train_sbs  # noqa: E402

MAX_PLACES = (0, 1024, 256)
NETWORKS = ('resnet20', 'resnet56')


def fit(network: str, weights: Path, data_dir: str, max_places: int, args: argparse.Namespace) -> Dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        train_sbs.main([
            '--recipe', 'cifar10', '--model', f'{network}_cifar10', '--initial-checkpoint', str(weights),
            '--data-dir', data_dir, '--output', f'{folder}/out', '--pct', '20', '--max-places', str(max_places),
            '--reconstruction-steps', str(args.reconstruction_steps),
            '--distillation-steps', str(args.steps), '--eval-interval', str(args.steps)])
        artifact = load_artifact(f'{folder}/out')
    plan = make_plan(artifact.config, artifact.specs, artifact.permutations, artifact.frequencies)
    results, parameters = artifact.config.results, artifact.config.sizes['predictor_parameters']
    places = sum(group.num_places for group in plan.groups)
    trunk = sum(p.numel() for p in artifact.predictor.trunk.parameters())
    heads = sum(g.num_places * sum(p.numel() for p in artifact.predictor.heads[str(g.output_size)].parameters())
                for g in plan.groups)
    return {
        'max_places': max_places, 'parameters': parameters, 'width': artifact.config.predictor.width, 'places': places,
        'gflop': round(2 * (places * trunk + heads) / 1e9, 2), 'error': round(results['reconstruction_error'], 4),
        'top1': results['top1'], 'original_top1': results['original_top1']}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True, type=Path)
    parser.add_argument('--networks', nargs='+', default=NETWORKS, choices=NETWORKS)
    parser.add_argument('--reconstruction-steps', type=int, default=4000)
    parser.add_argument('--steps', type=int, default=600)
    args = parser.parse_args()
    for network in args.networks:
        weights = RESNET20 if network == 'resnet20' else args.weights_56
        rows = []
        for max_places in MAX_PLACES:
            rows.append(fit(network, weights, args.data_dir, max_places, args))
            print(network, rows[-1], flush=True)
        path = HERE / 'results' / 'folding.json'
        networks = json.loads(path.read_text())['networks'] if path.exists() else {}
        write_results('folding', {
            'command': 'python tests/benchmarks/folding.py --data-dir CIFAR10 --weights-56 FILE',
            'seed': 0, 'reconstruction_steps': args.reconstruction_steps, 'distillation_steps': args.steps,
            'networks': {**networks, network: rows}, **environment()})


if __name__ == '__main__':
    main()
