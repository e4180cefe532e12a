"""Time of a distillation step on ResNet-20, beside the sum of its parts, each measured by itself in the same run.

    python tests/benchmarks/distillation_step.py

The parts: forward pass of the original, forward and backward pass of a network with weights of its own, forward and
backward pass of the predictor over all kernels. The step is the trainer's, on images in memory. All in turn, several
times over; medians. Takes about a minute on 2 CPU cores.
"""
import copy
import json
import statistics
import time

import timm
import torch
from common import RESNET20, seconds, write_results
from torch.utils.data import TensorDataset

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.batches import SampleBatches
from timm_sbs.predictor.original import load_original
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.generated_model import GeneratedModel
from timm_sbs.training.steps.monitor import Monitor

BATCH, ROUNDS, STEPS, SEED = 128, 15, 3, 0  # the last of a round's steps counts


class Clock(Monitor):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds, self._before = [], time.perf_counter()

    def step_done(self, step: int) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now


def main() -> None:
    torch.manual_seed(SEED)
    accelerator = make_accelerator('bf16')
    original = load_original('resnet20_cifar10', str(RESNET20)).to(memory_format=torch.channels_last)
    chosen = design(original, pct=20.)
    permutations = find_orderings(original, chosen.specs, chosen.generator.ordering)
    artifact = start_artifact(chosen, permutations, original, SEED)
    generator = artifact.generator
    student = GeneratedModel(generator, copy.deepcopy(original), artifact.storage)
    plain = timm.create_model('resnet20_cifar10').to(memory_format=torch.channels_last).train()
    images = torch.randn(BATCH, 3, 32, 32)
    placed = images.to(memory_format=torch.channels_last)
    group, = generator.groups
    features, gradient = generator.features(group), torch.randn(group.num_places, group.output_size)
    batches = SampleBatches(TensorDataset(images, torch.zeros(BATCH, dtype=torch.long)), BATCH, 0, SEED)

    def original_forward() -> None:
        with torch.no_grad(), accelerator.autocast():
            original(placed)

    def student_both_ways() -> None:
        with accelerator.autocast():
            logits = plain(placed)
        logits.float().square().mean().backward()

    def predictor_both_ways() -> None:
        with accelerator.autocast():
            kernels = generator.predictor(features, group.output_size)
        kernels.float().backward(gradient)

    parts = {'original forward': original_forward, 'student forward and backward': student_both_ways,
             'predictor forward and backward': predictor_both_ways}
    measured: dict[str, list] = {name: [] for name in [*parts, 'step']}
    for _ in range(ROUNDS):
        for name, call in parts.items():
            call()
            measured[name].append(seconds(call))
        clock = Clock()
        distill(student, original, batches, DistillationSettings(steps=STEPS, eval_interval=100), accelerator, clock)
        measured['step'].append(clock.seconds[-1])
    medians = {name: statistics.median(values) for name, values in measured.items()}
    total = sum(medians[name] for name in parts)
    ratios = [
        measured['step'][i] / sum(measured[name][i] for name in parts) for i in range(ROUNDS)]
    results = {
        'command': 'python tests/benchmarks/distillation_step.py', 'seed': SEED, 'steps': STEPS, 'rounds': ROUNDS,
        'batch_size': BATCH, 'precision': 'bf16',
        'milliseconds': {name: round(1000 * value, 1) for name, value in medians.items()},
        'sum_of_parts': round(1000 * total, 1), 'step_over_sum': round(statistics.median(ratios), 3), **environment(),
    }
    write_results('distillation_step', results)
    print(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
