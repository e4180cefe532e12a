"""Orderings, reconstruction and memory at the size of ImageNet networks.

    python tests/benchmarks/scale.py --weights-56 resnet56_cifar10.safetensors

1. One path over 262,144 kernels of 9 values; on 32,768 beside the greedy nearest-neighbour path.
2. Orderings of whole networks with random weights, and of ResNet-18 with real kernels as well: those of ResNet-56, in
   their 8 orientations and both signs, which makes as many different ones as ResNet-18 has.
3. Reconstruction of ResNet-18 at 15 %, one kernel at each place: kernels per second, beside the rate of a matrix
   product of the predictor's own shape in the same run.
4. Peak memory of the trainer on ResNet-50 at 15 %.

Takes about 10 minutes on 2 CPU cores.
"""
import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ['TIMM_SBS_CACHE'] = 'off'

import numpy as np
import timm
import torch
from common import product_rate, real_kernels, with_real_kernels, write_results

from timm_sbs.common.config import OrderingConfig
from timm_sbs.predictor.selection import select_weights
from timm_sbs.training.design.forecast import random_orderings
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.paths import path_length, short_path
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.monitor import Monitor
from timm_sbs.training.steps.reconstruction import reconstruct

NETWORKS = ('resnet18', 'resnet50', 'convnext_base')
STEPS = 12  # of reconstruction, timed without what happens once


def greedy_path(points: np.ndarray) -> np.ndarray:
    """From the outermost point ever on to the nearest one that is left."""
    left, points = np.arange(len(points)), points.astype(np.float32)
    remaining = points.copy()
    place = int(((points - points.mean(0)) ** 2).sum(1).argmax())
    path = []
    for _ in range(len(points)):
        path.append(left[place])
        last = remaining[place].copy()
        left[place], remaining[place] = left[-1], remaining[-1]
        left, remaining = left[:-1], remaining[:-1]
        if len(left):
            place = int(((remaining - last) ** 2).sum(1).argmin())
    return np.array(path)


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def paths() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    short_path(rng.standard_normal((100, 9)))  # compiles
    before = peak_mb()
    points = rng.standard_normal((262_144, 9))
    started = time.perf_counter()
    short_path(points)
    result = {'kernels': len(points), 'seconds': round(time.perf_counter() - started, 1),
              'peak_mb': peak_mb(), 'peak_mb_before': before}
    points = points[:32_768]
    started = time.perf_counter()
    ours = path_length(points, short_path(points))
    seconds = round(time.perf_counter() - started, 1)
    started = time.perf_counter()
    greedy = path_length(points, greedy_path(points))
    return {**result, '32768': {
        'seconds': seconds, 'greedy_seconds': round(time.perf_counter() - started, 1), 'length_over_greedy':
        round(ours / greedy, 4)}}


def ordering(model: torch.nn.Module) -> dict[str, Any]:
    specs = select_weights(model)
    started = time.perf_counter()
    find_orderings(model, specs, OrderingConfig())
    seconds = time.perf_counter() - started
    return {'kernels': sum(s.num_kernels for s in specs), 'seconds': round(seconds, 1)}


def throughput(model: torch.nn.Module) -> dict[str, Any]:
    """Kernels per second of reconstruction steps, and the share of the matrix-product rate that its products reach."""
    chosen = design(model, pct=15., max_places=0)
    permutations = random_orderings(chosen.specs, chosen.generator.ordering)
    generator = start_artifact(chosen, permutations, model, seed=0).generator
    moments = {}

    class Clock(Monitor):
        def step_done(self, step: int) -> None:
            moments[step] = time.perf_counter()
            if step == STEPS:
                raise StopIteration

    settings = ReconstructionSettings(steps=10 * STEPS)
    try:
        reconstruct(generator, model.state_dict(), settings, monitor=Clock())
    except StopIteration:
        pass
    step = (moments[STEPS] - moments[2]) / (STEPS - 2)
    weights = sum(p.numel() for name, p in generator.predictor.named_parameters() if name.endswith('weight'))
    rate = 6 * weights * settings.batch_size / step  # a product forward, two backward
    limit = product_rate(settings.batch_size, generator.config.predictor.width)
    return {
        'parameters': chosen.num_parameters, 'kernels_per_second': round(settings.batch_size / step),
        'gflops': round(rate / 1e9, 1), 'matrix_product_gflops': round(limit / 1e9, 1), 'share': round(rate / limit, 2)}


def fitting_memory(name: str, steps: int) -> dict[str, Any]:
    """Peak memory of a run of the trainer: ordering, reconstruction, error, artifact."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / 'original.pth'
        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), checkpoint)
        started = time.perf_counter()
        subprocess.run([
            sys.executable, '-m', 'timm_sbs.train', '--model', name, '--initial-checkpoint', str(checkpoint),
            '--pct', '15', '--reconstruction-steps', str(steps), '--output', f'{folder}/out'], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    return {'network': name, 'steps': steps, 'peak_mb': peak, 'seconds': round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights-56', required=True, type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {'command': 'python tests/benchmarks/scale.py --weights-56 FILE', 'seed': 0}
    results['memory'] = fitting_memory('resnet50', 20)  # first: the peak is that of any child
    print(results['memory'], flush=True)
    results['path'] = paths()
    print(results['path'], flush=True)
    torch.manual_seed(0)
    models = {f'{name}, random weights': timm.create_model(name).requires_grad_(False).eval() for name in NETWORKS}
    models['resnet18, real kernels'] = with_real_kernels('resnet18', real_kernels(args.weights_56))
    results['ordering'] = {name: ordering(model) for name, model in models.items()}
    for name, result in results['ordering'].items():
        print(name, result, flush=True)
    results['reconstruction'] = {name: throughput(models[name]) for name in models if name.startswith('resnet18')}
    for name, result in results['reconstruction'].items():
        print(name, result, flush=True)
    write_results('scale', {**results, **environment()})


if __name__ == '__main__':
    main()
