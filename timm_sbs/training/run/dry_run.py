"""What a run would do, before it does it: what is generated and kept, bytes, and an estimate of the time."""
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate import Accelerator
from timm.data import resolve_data_config
from torch import nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.ledger import num_bytes
from timm_sbs.common.config import OrderingConfig, SelectionRule
from timm_sbs.data.batches import Batch
from timm_sbs.predictor.base_model import kept_names, named_state
from timm_sbs.predictor.ordering import permutation_shapes, places
from timm_sbs.predictor.selection import explain_selection
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.design.forecast import random_orderings
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import Design, start_artifact
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.run.calibration import statistics_bytes, trace_uses
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.generated_model import GeneratedModel
from timm_sbs.training.steps.reconstruction import reconstruct
from timm_sbs.training.steps.second_order import second_order
from timm_sbs.training.steps.two_stage import TwoStageGenerator

__all__ = ['describe_dry_run']

ORDERING_SAMPLE = 4096  # kernels whose path is timed
TIMED_STEPS = 4
TIMED_IMAGES = 16


def describe_dry_run(
        name: str,
        original: nn.Module,
        design: Design,
        settings: Settings,
        accelerator: Accelerator,
        sample_size: int | None = None,
) -> str:
    """What a run would do, as text. Takes some steps of each phase, to time them.

    Images for statistics are ``sample_size``, if it is known how many there are.
    """
    if sample_size is not None:
        settings = dataclasses.replace(
            settings, second_order=dataclasses.replace(settings.second_order, images=sample_size))
    parameters = sum(p.numel() for p in original.parameters())
    specs = design.specs
    lines = [f'{name}: {parameters:,} parameters', '', 'generated']
    width = max(len(spec.name) for spec in specs)
    for spec in specs:
        lines.append(f'  {spec.name:<{width}}  {list(spec.shape)!s:<20} {spec.num_weights:>12,}  '
                     f'{spec.num_kernels:,} tokens of {spec.token_size}')
    kernels = sum(spec.num_kernels for spec in specs)
    visited = sum(len(places(spec, design.generator.ordering)[0]) for spec in specs)
    lines.append(f'  {len(specs)} weights, {kernels:,} kernels at {visited:,} places, {design.num_generated:,} '
                 f'parameters ({100 * design.num_generated / parameters:.1f} %)')
    lines += ['', 'kept, and why (--include and --exclude overrule this)',
              *_kept_lines(original, design, settings.predictor.rule)]

    size, quantization = design.num_parameters, design.storage.quantization
    ledger = design.forecast(original)
    original_bytes = num_bytes(original.state_dict())
    bits = f', {quantization.layer_bits[0]:g} bits a weight' if quantization else ''
    lines += [
        '', f'predictor: width {design.generator.predictor.width}, {size:,} parameters '
            f'({100 * size / parameters:.1f} %){bits}',
        f"files: {ledger['total']:,} bytes ({original_bytes / ledger['total']:.1f} x smaller than {original_bytes:,})",
        f"  predictor {ledger['predictor']:,}, ordering {ledger['ordering']:,}, kept {ledger['kept']:,}, frequencies "
        f"{ledger['frequencies']:,}, headers {ledger['header']:,}, config.json about {ledger['config']:,}",
        *_statistics_lines(original, design, settings),
        '', 'time, estimated from a few steps on this machine']
    seconds = _estimate_seconds(original, design, settings, accelerator)
    lines += [f'  {what:<16} {_duration(value)}' for what, value in seconds.items()]
    return '\n'.join(lines)


def _statistics_lines(original: nn.Module, design: Design, settings: Settings) -> list[str]:
    """What the second-order phase looks at, and the memory that it takes."""
    if not settings.takes_statistics:
        return []
    uses = trace_uses(original, design.base.pretrained_cfg, design.specs)
    memory = 2 * statistics_bytes(uses) / 1e6
    lines = [f'statistics: {settings.second_order.images:,} images, {memory:,.0f} MB of memory']
    missing = [spec.name for spec in design.specs if spec.name not in uses]
    if missing:
        lines.append(f"  none for {len(missing)} weight(s), such as '{missing[0]}', which no image reaches, or not as "
                     f'they are')
    return lines


def _kept_lines(original: nn.Module, design: Design, rule: SelectionRule) -> list[str]:
    """Number of kept values by why they are kept."""
    state, reasons = named_state(original), explain_selection(original, rule)
    counts: dict[str, list[int]] = {}
    for name in kept_names(state, [spec.name for spec in design.specs]):
        reason = reasons.get(name, 'statistics and buffers') or 'not in the artifact to start from'
        counts.setdefault(reason, []).append(state[name].numel())
    width = max(map(len, counts), default=0)
    return [f'  {reason:<{width}} {sum(sizes):>12,} values in {len(sizes):,} tensors'
            for reason, sizes in counts.items()]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'


def _estimate_seconds(
        original: nn.Module,
        design: Design,
        settings: Settings,
        accelerator: Accelerator,
) -> dict[str, float]:
    ordering = design.generator.ordering
    seconds = {'ordering': _ordering_seconds(design.specs, ordering)}
    artifact = start_artifact(design, random_orderings(design.specs, ordering), original, seed=0)
    if settings.reconstruction.steps:
        def rebuild(steps: int) -> None:
            phase = dataclasses.replace(settings.reconstruction, steps=steps)
            reconstruct(artifact.generator, original.state_dict(), phase, design.storage, accelerator=accelerator)

        seconds['reconstruction'] = settings.reconstruction.steps * _step_seconds(rebuild)
    if settings.takes_statistics:
        seconds.update(_second_order_seconds(artifact, original, settings, accelerator))
    if settings.distils:
        seconds['distillation'] = settings.distillation.steps * _step_seconds(
            lambda steps: _distill_random_images(artifact.quantized(None), original, settings, accelerator, steps))
    if settings.quantizes and settings.quantization.steps and settings.rounds_on_images:
        seconds['quantization'] = settings.quantization.steps * _step_seconds(
            lambda steps: _distill_random_images(artifact, original, settings, accelerator, steps))
    elif settings.quantizes and settings.takes_statistics and settings.second_order.steps:
        seconds['quantization'] = (
            seconds['second-order'] / settings.second_order.steps * settings.quantization.steps)
    elif settings.quantizes and settings.reconstruction.steps:
        seconds['quantization'] = (
            seconds['reconstruction'] / settings.reconstruction.steps * settings.quantization.steps)
    return seconds


def _step_seconds(run: Callable[[int], None]) -> float:
    """Time of one step, without what happens once."""
    times = []
    for steps in (1, 1, 1 + TIMED_STEPS):  # the first warms up
        started = time.perf_counter()
        run(steps)
        times.append(time.perf_counter() - started)
    return max(0., times[2] - times[1]) / TIMED_STEPS


def _second_order_seconds(
        artifact: Artifact, original: nn.Module, settings: Settings, accelerator: Accelerator) -> dict[str, float]:
    """From a batch of random images, and steps with its statistics."""
    uses = trace_uses(original, artifact.base.pretrained_cfg, artifact.generator.specs)
    size = resolve_data_config(pretrained_cfg=dict(artifact.base.pretrained_cfg))['input_size']
    count = min(TIMED_IMAGES, settings.second_order.images)
    original.to(accelerator.device)
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        statistics, _ = collect_statistics(original, uses, [torch.randn(count, *size)], count, accelerator)
        taken = time.perf_counter() - started
    divergence = ExpectedDivergence(
        artifact.generator.specs, original.state_dict(), uses, statistics, settings.second_order.damping)
    two_stage = TwoStageGenerator(artifact.generator)

    def fit_weights(steps: int) -> None:
        second_order(two_stage, divergence, dataclasses.replace(settings.second_order, steps=steps), accelerator)

    return {
        'statistics': taken * settings.second_order.images / count / accelerator.num_processes,
        'second-order': settings.second_order.steps * _step_seconds(fit_weights)}


def _ordering_seconds(specs: Sequence[WeightSpec], ordering: OrderingConfig) -> float:
    """From the path through a few kernels; the time of longer ones grows little faster than their length."""
    kernels = sum(rows * n for spec in specs for rows, n in permutation_shapes(spec, ordering))
    if not kernels:
        return 0.
    sample = WeightSpec('0.weight', (1, ORDERING_SAMPLE, 3, 3))
    model = nn.Sequential(nn.Conv2d(ORDERING_SAMPLE, 1, 3))
    layer = OrderingConfig()
    find_orderings(model, [sample], layer)  # compiles
    started = time.perf_counter()
    find_orderings(model, [sample], layer)
    return (time.perf_counter() - started) / ORDERING_SAMPLE * kernels


class _RandomImages:
    """The same random images in every batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def starting_at(self, number: int) -> Iterator[Batch]:
        while True:
            yield self._batch


def _distill_random_images(
        artifact: Artifact, original: nn.Module, settings: Settings, accelerator: Accelerator, steps: int) -> None:
    phase = dataclasses.replace(settings.distillation, steps=steps)
    size = resolve_data_config(pretrained_cfg=dict(artifact.base.pretrained_cfg))['input_size']
    count = settings.data.batch_size
    images = torch.randn(count, *size)
    student = GeneratedModel(
        copy.deepcopy(artifact.generator), copy.deepcopy(original), artifact.storage, phase.train_kept)
    labels = torch.zeros(count, dtype=torch.long)
    distill(student, original, _RandomImages((images, labels, labels)), phase, accelerator)
