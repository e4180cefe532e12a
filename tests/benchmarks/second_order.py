"""Second-order reconstruction beside reconstruction of the weights alone, in as much time: CIFAR-10 ResNets.

    python tests/benchmarks/second_order.py --data-dir CIFAR10 --weights-56 FILE

CIFAR10 is an ImageFolder with 'train' (50,000 images, of which at most 2,000 are looked at, without their labels) and
'validation' (the 10,000 test images, after a look at which 2,000 steps became 3,000; all else was chosen on training
images). Every run starts from the same short reconstruction. 'weights' is reconstruction alone, for as long as that
start and the second-order phase with 2,000 images take, its statistics included; the others take that phase, with
statistics of so many images, or of images that were drawn to match the BatchNorm statistics ('inversion'). No image is
trained on. Results are written after every run, and runs that are in the file are not repeated. Takes about 2 hours on
2 CPU cores.
"""
import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from common import HERE, RESNET20, write_results
from timm.data import resolve_data_config
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.original import load_original
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader, sample_loader
from timm_sbs.data.synthetic import InversionSettings, SyntheticImages, invert
from timm_sbs.predictor.generator import relative_error
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics, collect_statistics
from timm_sbs.training.options.settings import ReconstructionSettings, SecondOrderSettings
from timm_sbs.training.run.calibration import corrected_kept, trace_uses
from timm_sbs.training.run.environment import environment
from timm_sbs.training.run.precision import settle_precision
from timm_sbs.training.steps.reconstruction import reconstruct
from timm_sbs.training.steps.second_order import second_order
from timm_sbs.training.steps.two_stage import TwoStageGenerator

START_STEPS = 1000  # of reconstruction, from which all runs go on
NAME = 'second_order'


class Network:
    """An original with its statistics, each taken once for all sizes and seeds of predictors."""

    def __init__(self, name: str, weights: Path, args: argparse.Namespace) -> None:
        self.original = load_original(name, str(weights))
        self.cfg = self.original.pretrained_cfg
        self.accelerator = make_accelerator(settle_precision('auto').precision)
        data = DataSettings(args.data_dir, batch_size=250)
        batches = list(eval_loader(data, self.cfg))  # decoded once
        self.validation = batches
        self.data = data
        self.specs = design(self.original).specs
        self.uses = trace_uses(self.original, self.cfg, self.specs)
        self._statistics: dict[tuple[str, int], tuple[dict[str, LayerStatistics], float]] = {}
        self.top1 = evaluate(self.original, batches).top1

    def statistics(self, images: str, seed: int) -> tuple[dict[str, LayerStatistics], float]:
        """Statistics of a number of images or of 'inversion', and the seconds that they took."""
        if (images, seed) not in self._statistics:
            drawing = 0.
            if images == 'inversion':
                started = time.perf_counter()
                config = resolve_data_config(pretrained_cfg=dict(self.cfg))
                drawn = SyntheticImages(*invert(
                    self.original, config, InversionSettings(), self.accelerator, seed))
                torch.manual_seed(seed)
                batches: list[Tensor] = torch.stack(
                    [drawn[i % len(drawn)][0] for i in range(SecondOrderSettings.images)]).split(250)
                drawing = time.perf_counter() - started
            else:
                batches = [x for x, _ in sample_loader(self.data, self.cfg, int(images), seed)[0]]
            count = sum(map(len, batches))
            started = time.perf_counter()
            found, _ = collect_statistics(self.original, self.uses, batches, count, self.accelerator, seed)
            self._statistics[images, seed] = found, time.perf_counter() - started + drawing
        return self._statistics[images, seed]

    def measure(self, weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, float]:
        model = copy.deepcopy(self.original)
        model.load_state_dict({**weights, **kept}, strict=False)
        return {'top1': evaluate(model, self.validation).top1,
                'error': round(relative_error(weights, self.original.state_dict()), 4)}

    def reconstruct(self, pct: float, seed: int, steps: int) -> tuple[Artifact, float]:
        """A predictor after reconstruction, and the seconds that this took, without the ordering, which all share."""
        chosen = design(self.original, pct=pct)
        permutations = find_orderings(self.original, chosen.specs, chosen.generator.ordering)
        artifact = start_artifact(chosen, permutations, self.original, seed)
        started = time.perf_counter()
        reconstruct(artifact.generator, self.original.state_dict(), ReconstructionSettings(steps=steps),
                    artifact.storage, seed, self.accelerator)
        return artifact, time.perf_counter() - started

    def weights_alone(self, pct: float, seed: int, steps: int) -> dict[str, Any]:
        artifact, seconds = self.reconstruct(pct, seed, steps)
        return {**self.measure(artifact.stored_weights(), {}), 'steps': steps, 'seconds': round(seconds, 1)}

    def second_order(self, artifact: Artifact, images: str, steps: int, seed: int) -> dict[str, Any]:
        statistics, taken = self.statistics(images, seed)
        divergence = ExpectedDivergence(
            artifact.generator.specs, self.original.state_dict(), self.uses, statistics, SecondOrderSettings.damping)
        generator = artifact.generator.with_predictor(copy.deepcopy(artifact.generator.predictor))
        started = time.perf_counter()
        second_order(TwoStageGenerator(generator), divergence, SecondOrderSettings(steps=steps), self.accelerator, seed)
        seconds = time.perf_counter() - started
        weights = dataclasses.replace(artifact, generator=generator).stored_weights()
        return {**self.measure(weights, corrected_kept(self.original, divergence, weights)),
                'expected_divergence': round(divergence.total(weights), 5),
                'statistics_seconds': round(taken, 1), 'seconds': round(taken + seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir')
    parser.add_argument('--weights-56', type=Path)
    parser.add_argument('--pct', type=float, nargs='+', default=[20., 10., 30.])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--networks', nargs='+', default=['resnet20', 'resnet56'])
    parser.add_argument('--kinds', nargs='+', default=['2000', 'weights', 'inversion', '500', '100'])
    parser.add_argument('--steps', type=int, default=SecondOrderSettings.steps)
    args = parser.parse_args()
    path = HERE / 'results' / f'{NAME}.json'
    results = json.loads(path.read_text()) if path.exists() else {'networks': {}}
    results.update(
        command='python tests/benchmarks/second_order.py --data-dir CIFAR10 --weights-56 FILE', start_steps=START_STEPS,
        steps=args.steps, **environment())
    for name in args.networks:
        network = Network(f'{name}_cifar10', RESNET20 if name == 'resnet20' else args.weights_56, args)
        results['precision'] = network.accelerator.mixed_precision
        entry = results['networks'].setdefault(name, {'original': network.top1, 'runs': []})
        for pct in args.pct:
            for seed in args.seeds:
                run_all(network, entry['runs'], pct, seed, args, lambda: write_results(NAME, with_seeds(results)))


def with_seeds(results: dict[str, Any]) -> dict[str, Any]:
    return {**results, 'seeds': sorted({run['seed'] for n in results['networks'].values() for run in n['runs']})}


def run_all(
        network: Network, runs: list[dict[str, Any]], pct: float, seed: int, args: argparse.Namespace,
        write: Callable[[], None]) -> None:
    """All runs of one size and seed that are not in the results yet."""
    done = {(run['kind'], run['pct'], run['seed']): run for run in runs}
    wanted = [kind for kind in args.kinds if (kind, pct, seed) not in done]
    if not wanted:
        return
    artifact, seconds = network.reconstruct(pct, seed, START_STEPS)
    for kind in wanted:
        if kind == 'weights':
            steps = int(START_STEPS * done['2000', pct, seed]['seconds'] / seconds)
            run = network.weights_alone(pct, seed, steps)
        else:
            run = network.second_order(artifact, kind, args.steps, seed)
            run['seconds'] = round(run['seconds'] + seconds, 1)
        done[(kind, pct, seed)] = {'kind': kind, 'pct': pct, 'seed': seed, **run}
        runs.append(done[(kind, pct, seed)])
        print(runs[-1], flush=True)
        write()


if __name__ == '__main__':
    main()
