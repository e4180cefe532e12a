"""What a run would do, before it does it: what is generated and kept, bytes, and an estimate of the time."""
import copy
import dataclasses
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import torch
from accelerate import Accelerator
from timm.data import resolve_data_config
from torch import nn

from timm_sbs.base_model import kept_names, named_state
from timm_sbs.config import OrderingConfig, SbsConfig, TargetRule
from timm_sbs.ordering import permutation_shapes, places
from timm_sbs.sizes import num_bytes
from timm_sbs.targets import TargetSpec, explain_targets
from timm_sbs.training.batches import Batch
from timm_sbs.training.calibration import statistics_bytes, trace_uses
from timm_sbs.training.configuration import Settings
from timm_sbs.training.distillation import distill
from timm_sbs.training.divergence import ExpectedDivergence
from timm_sbs.training.forecast import forecast_sizes, random_orderings
from timm_sbs.training.fit import Fit, predictor_parameters, start_fit
from timm_sbs.training.generated_model import GeneratedModel
from timm_sbs.training.orderings import find_orderings
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.second_order import second_order
from timm_sbs.training.statistics import collect_statistics
from timm_sbs.training.weight_generator import WeightGenerator

__all__ = ['describe_plan']

ORDERING_SAMPLE = 4096  # kernels whose path is timed
TIMED_STEPS = 4
TIMED_IMAGES = 16


def describe_plan(
        name: str,
        original: nn.Module,
        config: SbsConfig,
        pretrained_cfg: Mapping[str, Any],
        specs: Sequence[TargetSpec],
        settings: Settings,
        accelerator: Accelerator,
        sample_size: Optional[int] = None,
) -> str:
    """The plan as text. Takes some steps of each phase, to time them.

    Images for statistics are ``sample_size``, if it is known how many there are.
    """
    if sample_size is not None:
        settings = dataclasses.replace(
            settings, second_order=dataclasses.replace(settings.second_order, images=sample_size))
    parameters = sum(p.numel() for p in original.parameters())
    lines = [f'{name}: {parameters:,} parameters', '', 'generated']
    width = max(len(spec.name) for spec in specs)
    for spec in specs:
        lines.append(f'  {spec.name:<{width}}  {str(list(spec.shape)):<20} {spec.num_weights:>12,}  '
                     f'{spec.num_kernels:,} tokens of {spec.token_size}')
    generated = sum(spec.num_weights for spec in specs)
    kernels = sum(spec.num_kernels for spec in specs)
    visited = sum(len(places(spec, config.ordering)[0]) for spec in specs)
    lines.append(f'  {len(specs)} weights, {kernels:,} kernels at {visited:,} places, {generated:,} parameters '
                 f'({100 * generated / parameters:.1f} %)')
    lines += ['', 'kept, because it is (--include and --exclude overrule this)',
              *_kept_lines(original, config, settings.predictor.rule)]

    size = predictor_parameters(config, specs)
    sizes = forecast_sizes(config, pretrained_cfg, specs, original.state_dict())
    original_bytes = num_bytes(original.state_dict())
    bits = f', {config.quantization.layer_bits[0]:g} bits a weight' if config.quantization else ''
    lines += [
        '', f'predictor: width {config.predictor.width}, {size:,} parameters ({100 * size / parameters:.1f} %){bits}',
        f"files: {sizes['total']:,} bytes ({original_bytes / sizes['total']:.1f} x smaller than {original_bytes:,})",
        f"  predictor {sizes['predictor']:,}, ordering {sizes['ordering']:,}, kept {sizes['kept']:,}, frequencies "
        f"{sizes['frequencies']:,}, headers {sizes['header']:,}, config.json about {sizes['config']:,}",
        *_statistics_lines(original, config, pretrained_cfg, specs, settings),
        '', 'time, estimated from a few steps on this machine']
    seconds = _estimate_seconds(original, config, pretrained_cfg, specs, settings, accelerator)
    lines += [f'  {what:<16} {_duration(value)}' for what, value in seconds.items()]
    return '\n'.join(lines)


def _statistics_lines(
        original: nn.Module,
        config: SbsConfig,
        pretrained_cfg: Mapping[str, Any],
        specs: Sequence[TargetSpec],
        settings: Settings,
) -> List[str]:
    """What the second-order phase looks at, and the memory that it takes."""
    if not settings.takes_statistics:
        return []
    uses = trace_uses(original, pretrained_cfg, specs)
    memory = 2 * statistics_bytes(uses) / 1e6
    lines = [f'statistics: {settings.second_order.images:,} images, {memory:,.0f} MB of memory']
    missing = [spec.name for spec in specs if spec.name not in uses]
    if missing:
        lines.append(f"  none for {len(missing)} weight(s), such as '{missing[0]}', which no image reaches, or not as "
                     f'they are')
    return lines


def _kept_lines(original: nn.Module, config: SbsConfig, rule: TargetRule) -> List[str]:
    """Number of kept values by why they are kept."""
    state, reasons = named_state(original), explain_targets(original, rule)
    counts: Dict[str, List[int]] = {}
    for name in kept_names(state, config.generated):
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
        config: SbsConfig,
        pretrained_cfg: Mapping[str, Any],
        specs: Sequence[TargetSpec],
        settings: Settings,
        accelerator: Accelerator,
) -> Dict[str, float]:
    seconds = {'ordering': _ordering_seconds(specs, config.ordering)}
    fit = start_fit(config, dict(pretrained_cfg), specs, random_orderings(specs, config), seed=0)
    if settings.reconstruction.steps:
        def rebuild(steps: int) -> None:
            phase = dataclasses.replace(settings.reconstruction, steps=steps)
            reconstruct(fit.predictor, fit.plan, original.state_dict(), phase, accelerator=accelerator)

        seconds['reconstruction'] = settings.reconstruction.steps * _step_seconds(rebuild)
    if settings.takes_statistics:
        seconds.update(_second_order_seconds(fit.quantized(None), original, settings, accelerator))
    if settings.distils:
        seconds['distillation'] = settings.distillation.steps * _step_seconds(
            lambda steps: _distill_random_images(fit.quantized(None), original, settings, accelerator, steps))
    if settings.quantizes and settings.quantization.steps and settings.rounds_on_images:
        seconds['quantization'] = settings.quantization.steps * _step_seconds(
            lambda steps: _distill_random_images(fit, original, settings, accelerator, steps))
    elif settings.quantizes and settings.takes_statistics and settings.second_order.steps:
        seconds['quantization'] = (
            seconds['second-order'] / settings.second_order.steps * settings.quantization.steps)
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
        fit: Fit, original: nn.Module, settings: Settings, accelerator: Accelerator) -> Dict[str, float]:
    """From a batch of random images, and steps with its statistics."""
    uses = trace_uses(original, fit.pretrained_cfg, fit.specs)
    size = resolve_data_config(pretrained_cfg=dict(fit.pretrained_cfg))['input_size']
    count = min(TIMED_IMAGES, settings.second_order.images)
    original.to(accelerator.device)
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        statistics, _ = collect_statistics(original, uses, [torch.randn(count, *size)], count, accelerator)
        taken = time.perf_counter() - started
    divergence = ExpectedDivergence(
        fit.specs, original.state_dict(), uses, statistics, settings.second_order.damping)
    generator = WeightGenerator(fit.predictor, fit.plan)

    def fit_weights(steps: int) -> None:
        second_order(generator, divergence, dataclasses.replace(settings.second_order, steps=steps), accelerator)

    return {
        'statistics': taken * settings.second_order.images / count / accelerator.num_processes,
        'second-order': settings.second_order.steps * _step_seconds(fit_weights)}


def _ordering_seconds(specs: Sequence[TargetSpec], ordering: OrderingConfig) -> float:
    """From the path through a few kernels; the time of longer ones grows little faster than their length."""
    kernels = sum(rows * n for spec in specs for rows, n in permutation_shapes(spec, ordering))
    if not kernels:
        return 0.
    sample = TargetSpec('0.weight', (1, ORDERING_SAMPLE, 3, 3))
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
        fit: Fit, original: nn.Module, settings: Settings, accelerator: Accelerator, steps: int) -> None:
    phase = dataclasses.replace(settings.distillation, steps=steps)
    size = resolve_data_config(pretrained_cfg=dict(fit.pretrained_cfg))['input_size']
    count = settings.data.batch_size
    images = torch.randn(count, *size)
    student = GeneratedModel(
        copy.deepcopy(fit.predictor), fit.plan, copy.deepcopy(original), phase.train_kept, fit.config.quantization)
    labels = torch.zeros(count, dtype=torch.long)
    distill(student, original, _RandomImages((images, labels, labels)), phase, accelerator)
