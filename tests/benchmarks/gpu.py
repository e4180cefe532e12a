"""On a GPU: time and memory of generating the shipped predictors' weights, and reconstruction in each precision.

    python tests/benchmarks/gpu.py

Generation is timed after a first call, from the call until the card is done: whole, and its parts, the features (sines
and cosines of angles in float64), the matrix products and the rest (activations, kernels put in their places). Its
limit is the time of its matrix products at the rate of one float32 product of 8,192 rows and columns. Reconstruction
is 1,000 steps of ResNet-20 at 20 % and of ResNet-18 with its predictor's configuration, from the same seed in float32,
TF32 and bfloat16: the errors they end with, and milliseconds of a step, with and without the first. Distillation is
distillation_step.py's. Takes about two minutes on an H100.
"""
import statistics
import time
from typing import Any

import timm
import torch
from accelerate.state import AcceleratorState
from common import operations, product_rate, seconds, write_results
from torch import nn

import timm_sbs  # noqa: F401  (registers models)
from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.products import float32_products
from timm_sbs.predictor.generator import Generator
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.monitor import Monitor
from timm_sbs.training.steps.reconstruction import reconstruct

CUDA = torch.device('cuda')
ENTRIES = ['sbs_resnet20_cifar10_42pct', 'sbs_resnet56_cifar10_26pct', 'sbs_resnet18_15pct', 'sbs_resnet18_15pct_small']
FITTED = ENTRIES[0], ENTRIES[2]
REPEATS, STEPS, SEED = 30, 1000, 0


class Clock(Monitor):
    """Moments at which steps were done."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def step_done(self, step: int) -> None:
        if step in (100, STEPS):
            torch.cuda.synchronize()
            self.moments.append(time.perf_counter())


def milliseconds(call: Any) -> float:
    def whole() -> None:
        call()
        torch.cuda.synchronize()

    return round(1000 * statistics.median([seconds(whole) for _ in range(REPEATS + 3)][3:]), 3)


def generation(entry: str, rate: float) -> dict[str, Any]:
    folder = shipped_folder(entry)
    generator = load_artifact(folder).generator.to(CUDA)
    first = seconds(lambda: (generator(), torch.cuda.synchronize()))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    size = sum(weight.nbytes for weight in generator().values())
    peak = torch.cuda.max_memory_allocated() - before
    features = [generator.features(group) for group in generator.groups]
    with torch.no_grad(), float32_products('ieee'):
        products = milliseconds(lambda: [
            generator.predictor(x, group.output_size) for x, group in zip(features, generator.groups)])
    whole, flop = milliseconds(generator), operations(generator)
    return {
        'entry': entry, 'places': sum(group.num_places for group in generator.groups), 'gflop': round(flop / 1e9, 1),
        'first_ms': round(1000 * first, 1), 'ms': whole,
        'features_ms': milliseconds(lambda: [generator.features(group) for group in generator.groups]),
        'perceptron_ms': products, 'limit_ms': round(1000 * flop / rate, 3),
        'share_of_limit': round(1000 * flop / rate / whole, 3),
        'weights_mb': round(size / 1e6, 1), 'peak_memory_mb': round(peak / 1e6, 1)}


def original_of(artifact: Artifact, entry: str) -> nn.Module:
    original = timm.create_model(artifact.base.name, **artifact.base.args)
    original.load_state_dict(timm.create_model(entry, pretrained=True).state_dict())
    return original.requires_grad_(False).eval()


def reconstruction(entry: str, kind: str) -> dict[str, Any]:
    artifact = load_artifact(shipped_folder(entry)).quantized(None)
    original = original_of(artifact, entry)
    old = artifact.generator
    AcceleratorState._reset_state(True)
    accelerator = make_accelerator('bf16' if kind == 'bfloat16' else 'no')
    generator = Generator.fresh(old.config, old.specs, old.permutations, SEED).to(CUDA)
    clock = Clock()
    started = time.perf_counter()
    with float32_products('tf32' if kind == 'tf32' else 'ieee'):
        error = reconstruct(generator, original.state_dict(), ReconstructionSettings(STEPS), accelerator=accelerator,
                            monitor=clock)
    return {
        'network': artifact.base.name, 'precision': kind, 'steps': STEPS, 'error': round(error, 5),
        'ms_per_step': round(1000 * (clock.moments[1] - clock.moments[0]) / (STEPS - 100), 3),
        'seconds': round(clock.moments[1] - started, 1)}


def main() -> None:
    rate = product_rate(8192, 8192, CUDA)
    results = {
        'command': 'python tests/benchmarks/gpu.py', 'seed': SEED, **environment(CUDA),
        'float32_product_tflops': round(rate / 1e12, 1),
        'generation': [generation(entry, rate) for entry in ENTRIES],
        'reconstruction': [
            reconstruction(entry, kind) for entry in FITTED for kind in ('float32', 'tf32', 'bfloat16')]}
    write_results('gpu', results)
    for row in [*results['generation'], *results['reconstruction']]:
        print(row)


if __name__ == '__main__':
    main()
