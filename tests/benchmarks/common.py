"""What the benchmarks share: weights and real kernels, NeRN's configuration, rounding, rates, results and pictures."""
import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from timm_sbs.artifact.original import load_original
from timm_sbs.codec.entropy import encode_integers
from timm_sbs.common.config import EncodingConfig, OrderingConfig
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.batches import SampleBatches
from timm_sbs.data.fidelity import Fidelity
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.selection import select_weights
from timm_sbs.predictor.tokens import to_kernels
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.run.choice import HeldOut
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.generated_model import GeneratedModel

HERE = Path(__file__).parent
RESNET20 = HERE.parent / 'data' / 'resnet20_cifar10.safetensors'
# NeRN's encoding, cross-filter order and activation, as arguments of design.
NERN = dict(ordering=OrderingConfig('layer', 'grid'), encoding=EncodingConfig(kind='positional'), activation='relu')


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def operations(generator: Generator) -> int:
    """Floating-point operations of a generation's matrix products."""
    predictor = generator.predictor
    trunk = sum(layer.weight.numel() for layer in predictor.trunk)
    return sum(
        2 * group.num_places * (trunk + predictor.heads[str(group.output_size)].weight.numel())
        for group in generator.groups)


def product_rate(rows: int, width: int, device: torch.device = torch.device('cpu')) -> float:
    """Operations per second of [rows, width] x [width, width], the best of some."""
    a, b = torch.randn(rows, width, device=device), torch.randn(width, width, device=device)
    out = torch.empty(rows, width, device=device)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * rows * width ** 2 / min(seconds)


def real_kernels(weights: Path) -> torch.Tensor:
    """ResNet-56's 3x3 kernels in 8 orientations and both signs, shuffled: [1.5 million, 9]."""
    resnet56 = load_original('resnet56_cifar10', str(weights))
    specs = select_weights(resnet56)
    kernels = torch.cat([to_kernels(resnet56.get_parameter(s.name), s) for s in specs]).view(-1, 3, 3)
    turned = [torch.rot90(k, turns, (1, 2)) for k in (kernels, kernels.transpose(1, 2)) for turns in range(4)]
    every = torch.cat([sign * k for k in turned for sign in (1, -1)]).reshape(-1, 9)
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))]


def with_real_kernels(name: str, kernels: torch.Tensor) -> torch.nn.Module:
    model = timm.create_model(name).requires_grad_(False)
    used = 0
    for spec in select_weights(model):
        count = -(-spec.num_weights // 9)
        model.get_parameter(spec.name).copy_(kernels[used:used + count].flatten()[:spec.num_weights].view(spec.shape))
        used += count
    return model.eval()


def rounded_by_channel(state: Mapping[str, Tensor], bits: int) -> tuple[dict[str, Tensor], int]:
    """A state dict with weights rounded by output channel and all else as float16, and its bytes, entropy-coded."""
    arrays, other, decoded = [], 0, {}
    for name, tensor in state.items():
        if tensor.dim() < 2:
            decoded[name] = tensor.half().float()
            other += 2 * tensor.numel()
            continue
        rows = tensor.flatten(1)
        steps = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-8).half().float()
        integers = (rows / steps).round()
        decoded[name] = (integers * steps).view_as(tensor)
        arrays.append(integers.long().numpy())
        other += 2 * len(rows)
    return decoded, len(encode_integers(arrays)) + other


def value_bytes(state: Mapping[str, Tensor]) -> int:
    """Of all floating-point values, in float32: the size of an original, as in an artifact's ledger."""
    return sum(4 * tensor.numel() for tensor in state.values() if tensor.is_floating_point())


def resnet20_distillation(batch_size: int, seed: int) -> Callable[[int], None]:
    """Distils ResNet-20 into a predictor of 20 %, for some steps on one batch that is in memory, in float32."""
    accelerator = make_accelerator('no')
    original = load_original('resnet20_cifar10', str(RESNET20)).to(memory_format=torch.channels_last)
    chosen = design(original, pct=20.)
    artifact = start_artifact(
        chosen, find_orderings(original, chosen.specs, chosen.generator.ordering), original, seed)
    student = GeneratedModel(artifact.generator, copy.deepcopy(original), artifact.storage)
    images = TensorDataset(torch.randn(batch_size, 3, 32, 32), torch.zeros(batch_size, dtype=torch.long))
    batches = SampleBatches(images, batch_size, 0, seed)
    return lambda steps: distill(
        student, original, batches, DistillationSettings(steps=steps, eval_interval=100), accelerator)


def current_flags(flags: Sequence[str]) -> list[str]:
    """The trainer's flags as they are called now, from results that may be older: --granularity became --order-over."""
    found = list(flags)
    for index, flag in enumerate(flags):
        if flag == '--granularity':
            word = flags[index + 1]
            found[index:index + 2] = ['--order-over', {'axis': 'axes', 'none': 'nothing'}.get(word, word)]
    return found


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write tests/benchmarks/results/NAME.json."""
    (HERE / 'results' / f'{name}.json').write_text(json.dumps(results, indent=2) + '\n')


def draw(name: str) -> None:
    """Draw a results file beside it, light and dark."""
    from pictures import draw_results

    for theme, suffix in (('light', ''), ('dark', '_dark')):
        draw_results(HERE / 'results' / f'{name}.json', HERE / 'results' / f'{name}{suffix}.png', theme)


@contextmanager
def top1_at_each_look(validation: Iterable[tuple[Tensor, Tensor]]) -> Iterator[list[float]]:
    """Top-1 of each network that a run in the block measures on its held-out images, for which summary.csv has a row in
    the same order. The trainer itself looks at validation images when a run has ended."""
    found: list[float] = []
    measure = HeldOut.measure

    def both(held_out: HeldOut, model: nn.Module) -> Fidelity:
        found.append(evaluate(model, validation).top1)
        return measure(held_out, model)

    with mock.patch.object(HeldOut, 'measure', both):
        yield found
