"""Time of a distillation step beside the sum of its parts, each measured by itself in the same run.

    python tests/benchmarks/distillation_step.py                                   # ResNet-20, ResNet-56, ResNet-18
    ONEDNN_MAX_CPU_ISA=AVX2 python tests/benchmarks/distillation_step.py           # as on a CPU without bfloat16 units
    python tests/benchmarks/distillation_step.py --only resnet56 --data-dir CIFAR10
    python tests/benchmarks/distillation_step.py --only resnet18 --batch-size 256  # on a GPU
    accelerate launch --multi_gpu --num_processes 2 tests/benchmarks/distillation_step.py

The parts: forward pass of the original, forward and backward pass of a network with weights of its own, forward and
backward pass of the predictor over all kernels. The step is the trainer's, on images in memory: beside the parts it
generates the weights (on a CPU without keeping activations, which it computes again), moves images, clips and
optimizes. All in turn, several times over;
medians. Networks are those that the package's predictors make; ResNet-20 and ResNet-56 get a new predictor of 20 %,
ResNet-18 its own. Precision is what --mixed-precision auto chooses. A step's share of the measured rate is its
operations, those of the parts, over what one matrix product of 2,048 rows and columns does in that time and precision.
Rows of other devices, precisions and numbers of processes stay in the results. Takes about 3 minutes on 2 CPU cores.
"""
import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from accelerate import Accelerator
from common import HERE, operations, seconds, write_results
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import timm_sbs  # noqa: F401  (registers models)
from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.products import float32_products
from timm_sbs.data.batches import Batch
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.run.precision import NAMES, settle_precision
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.generated_model import GeneratedModel
from timm_sbs.training.steps.monitor import Monitor

# Of each network: the shipped predictor, pixels, images of a batch, rounds. ResNet-18 has a predictor of its own size.
CASES = {
    'resnet20': ('sbs_resnet20_cifar10_42pct', 32, 128, 15),
    'resnet56': ('sbs_resnet56_cifar10_26pct', 32, 128, 9),
    'resnet18': ('sbs_resnet18_15pct', 224, 32, 5)}
STEPS, SEED = 3, 0  # the last of a round's steps counts
PRODUCT = 2048  # rows and columns
NAME = 'distillation_step'


class Clock(Monitor):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds, self._before = [], time.perf_counter()

    def step_done(self, step: int) -> None:
        synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now


class Repeated:
    """The same batch for ever: reading images is no part of a step."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def starting_at(self, number: int) -> Iterator[Batch]:
        return itertools.repeat(self._batch)


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def prepared(name: str, entry: str, device: torch.device) -> tuple[nn.Module, Artifact]:
    """The network that a shipped predictor makes, and what it is distilled into."""
    artifact = load_artifact(shipped_folder(entry)).quantized(None)
    original = timm.create_model(artifact.base.name, **artifact.base.args).requires_grad_(False).eval()
    original.load_state_dict(timm.create_model(entry, pretrained=True).state_dict())
    if name != 'resnet18':
        chosen = design(original, pct=20.)
        orderings = find_orderings(original, chosen.specs, chosen.generator.ordering)
        artifact = start_artifact(chosen, orderings, original, SEED)
    artifact.generator.to(device)
    return original.to(device, memory_format=torch.channels_last), artifact


def product_seconds(accelerator: Accelerator) -> float:
    """Of a square product in the precision of the run, after a first one."""
    kind = getattr(torch, NAMES[accelerator.mixed_precision])
    a, b = (torch.randn(PRODUCT, PRODUCT, device=accelerator.device).to(kind) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        synchronize()

    product()
    return seconds(product)


def measured(name: str, batch_size: int | None, accelerator: Accelerator) -> dict[str, Any]:
    entry, size, usual, rounds = CASES[name]
    count = batch_size or usual
    original, artifact = prepared(name, entry, accelerator.device)
    generator = artifact.generator
    student = GeneratedModel(generator, copy.deepcopy(original), artifact.storage)
    plain = copy.deepcopy(original).requires_grad_(True).train()
    images = torch.randn(count, 3, size, size)
    placed = images.to(accelerator.device, memory_format=torch.channels_last)
    features = [generator.features(group) for group in generator.groups]
    gradients = [torch.randn(g.num_places, g.output_size, device=accelerator.device) for g in generator.groups]
    labels = torch.zeros(count, dtype=torch.long)
    repeated = Repeated((images.pin_memory() if torch.cuda.is_available() else images, labels, labels))

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
        torch.autograd.backward([k.float() for k in kernels], gradients)

    parts: dict[str, Callable[[], None]] = {
        'original forward': original_forward, 'network forward and backward': network_both_ways,
        'predictor forward and backward': predictor_both_ways}
    settings = DistillationSettings(steps=STEPS, eval_interval=100)
    times: dict[str, list[float]] = {part: [] for part in [*parts, 'step', 'product']}
    for _ in range(rounds):
        for part, call in parts.items():
            call()
            synchronize()
            times[part].append(seconds(lambda call=call: (call(), synchronize())))
        if accelerator.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        clock = Clock()
        with float32_products('tf32'):
            distill(student, original, repeated, settings, accelerator, clock)
        times['step'].append(clock.seconds[-1])
        times['product'].append(product_seconds(accelerator))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        original(placed[:1])
    flop = 4 * count * counter.get_total_flops() + 3 * operations(generator)
    medians = {part: statistics.median(values) for part, values in times.items()}
    rate = 2 * PRODUCT ** 3 / medians.pop('product')
    total = sum(medians[part] for part in parts)
    shares = [sum(times[part][i] for part in parts) / times['step'][i] for i in range(rounds)]
    processes = accelerator.num_processes
    row = {
        'network': name, 'predictor_parameters': generator.num_parameters, 'pixels': size, 'batch_size': count,
        'precision': accelerator.mixed_precision, 'processes': processes, 'rounds': rounds,
        'milliseconds': {part: round(1000 * value, 2) for part, value in medians.items()},
        'images_per_second': round(processes * count / medians['step'], 1),
        'images_per_second_of_parts': round(processes * count / total, 1),
        'share_of_parts': round(statistics.median(shares), 3),
        'gflop': round(flop / 1e9, 1),
        'share_of_product_rate': round(flop / medians['step'] / rate, 3),
        **environment(accelerator.device, processes)}
    if accelerator.device.type == 'cuda':
        row['peak_memory_mb'] = round(torch.cuda.max_memory_allocated() / 1e6)
    return row


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row['hardware'], row['precision'], row['processes'], row['network']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', choices=list(CASES), default=list(CASES))
    parser.add_argument('--batch-size', type=int, default=None, help='images of a batch (default: the usual number)')
    args = parser.parse_args()
    torch.manual_seed(SEED)
    accelerator = make_accelerator(settle_precision('auto').precision)
    found = [measured(name, args.batch_size, accelerator) for name in args.only]
    if accelerator.is_main_process:
        path = HERE / 'results' / f'{NAME}.json'
        earlier = json.loads(path.read_text())['rows'] if path.exists() else []
        new = {key(row) for row in found}
        rows = [row for row in earlier if key(row) not in new] + found
        write_results(NAME, {
            'command': 'python tests/benchmarks/distillation_step.py', 'seed': SEED, 'steps': STEPS,
            'versions': environment()['versions'], 'hardware': '; '.join(sorted({row['hardware'] for row in rows})),
            'rows': sorted(rows, key=key)})
        print(json.dumps(found, indent=2))
    accelerator.end_training()


if __name__ == '__main__':
    main()
