"""Time of a distillation step beside the sum of its parts, each measured by itself in the same run.

    python tests/benchmarks/distillation_step.py                                   # ResNet-20, ResNet-56, ResNet-18
    python tests/benchmarks/distillation_step.py --only resnet18 --batch-size 256  # on a GPU
    accelerate launch --multi_gpu --num_processes 2 tests/benchmarks/distillation_step.py

The parts: forward pass of the original, forward and backward pass of a network with weights of its own, and forward and
backward pass of the predictor over all kernels. The step is the trainer's, on images in memory: beside the parts it
generates the weights (on a CPU without keeping activations, which it computes again), moves images, clips and
optimizes. All in turn, several times over; medians. Rows of other devices, networks and numbers of processes stay in
the results. Takes about 3 minutes on 2 CPU cores.
"""
import argparse
import copy
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from accelerate import Accelerator
from common import environment, read_results, replaced, timed, write_results
from torch import Tensor

import timm_sbs
from timm_sbs.training.loop import Context
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.phases.distillation import distill

# Of each network: what it is loaded from, per cent of the predictor, pixels, images of a batch, rounds.
CASES = {
    'resnet20': ('sbs_resnet20_cifar10_50kb', 20, 32, 128, 15),
    'resnet56': ('sbs_resnet56_cifar10_120kb', 20, 32, 128, 9),
    'resnet18': ('sbs_resnet18_2mb', 15, 224, 32, 5)}
STEPS, SEED = 3, 0  # the last of a round's steps counts
NAME = 'distillation_step'


class Clock(Context):
    """A run that notes the seconds of each step."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator, SEED)
        self.seconds: list[float] = []
        self._before = time.perf_counter()

    def step_done(self, step: int, module: object) -> None:
        synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now


class Repeated:
    """The same batch for ever: reading images is no part of a step."""

    def __init__(self, images: Tensor) -> None:
        self._batch = images

    def starting_at(self, number: int) -> Iterator[Tensor]:
        return itertools.repeat(self._batch)


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def measured(name: str, batch_size: int | None, accelerator: Accelerator) -> dict[str, Any]:
    entry, pct, size, usual, rounds = CASES[name]
    count = batch_size or usual
    original = timm.create_model(entry, pretrained=True).requires_grad_(False).eval()
    with tempfile.TemporaryDirectory() as folder:
        artifact = timm_sbs.fit(original, pct=pct, reconstruction_steps=1, output=folder)
    generator = artifact.generator.to(accelerator.device).requires_grad_(True)
    original.to(accelerator.device, memory_format=torch.channels_last)
    plain = copy.deepcopy(original).requires_grad_(True).train()
    images = torch.randn(count, 3, size, size)
    placed = images.to(accelerator.device, memory_format=torch.channels_last)
    features = [generator.features(group) for group in generator.groups]

    def original_forward() -> None:
        with torch.no_grad(), accelerator.autocast():
            original(placed)

    def network_both_ways() -> None:
        plain.zero_grad()
        with accelerator.autocast():
            logits = plain(placed)
        logits.float().square().mean().backward()

    def predictor_both_ways() -> None:
        generator.predictor.zero_grad()
        with accelerator.autocast():
            kernels = [generator.predictor(x, g.output_size) for x, g in zip(features, generator.groups)]
        sum(k.float().square().mean() for k in kernels).backward()

    parts: dict[str, Callable[[], None]] = {
        'original forward': original_forward, 'network forward and backward': network_both_ways,
        'predictor forward and backward': predictor_both_ways}
    batches = Repeated(images.pin_memory() if torch.cuda.is_available() else images)
    settings = Distillation(steps=STEPS, eval_interval=100)
    times: dict[str, list[float]] = {part: [] for part in [*parts, 'step']}
    for _ in range(rounds):
        for part, call in parts.items():
            call()
            synchronize()
            times[part].append(timed(lambda call=call: (call(), synchronize()))[1])
        clock = Clock(accelerator)
        distill(artifact, original, batches, settings, clock)
        times['step'].append(clock.seconds[-1])
    medians = {part: statistics.median(values) for part, values in times.items()}
    shares = [sum(times[part][i] for part in parts) / times['step'][i] for i in range(rounds)]
    processes, found = accelerator.num_processes, environment()
    row = {
        'network': name, 'pixels': size, 'batch_size': count, 'precision': accelerator.mixed_precision,
        'processes': processes, 'rounds': rounds,
        'milliseconds': {part: round(1000 * value, 2) for part, value in medians.items()},
        'images_per_second': round(processes * count / medians['step'], 1),
        'share_of_parts': round(statistics.median(shares), 3), **found}
    if processes > 1:
        row['hardware'] = f"{processes} processes on one {found['hardware']}"
    if accelerator.device.type == 'cuda':
        row['peak_memory_mb'] = round(torch.cuda.max_memory_allocated() / 1e6)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', choices=list(CASES), default=list(CASES))
    parser.add_argument('--batch-size', type=int, default=None, help='images of a batch (default: the usual number)')
    parser.add_argument('--precision', default='bf16', choices=['no', 'bf16', 'fp16'])
    args = parser.parse_args()
    torch.manual_seed(SEED)
    accelerator = Accelerator(mixed_precision=args.precision)
    for name in args.only:
        row = measured(name, args.batch_size, accelerator)
        if accelerator.is_main_process:
            print(json.dumps(row, indent=2))
            rows = replaced(
                read_results(NAME).get('rows', []), row, 'hardware', 'precision', 'processes', 'network')
            write_results(NAME, {
                'command': 'python tests/benchmarks/distillation_step.py', 'seed': SEED, 'steps': STEPS,
                'versions': row['versions'], 'hardware': '; '.join(sorted({row['hardware'] for row in rows})),
                'rows': sorted(rows, key=lambda row: (row['hardware'], row['network']))})
    accelerator.end_training()


if __name__ == '__main__':
    main()
