"""The second-order phase of a run: statistics, steps, and the corrections of biases at its end."""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.prefixes import with_prefix, without_prefix
from timm_sbs.common.progress import say
from timm_sbs.data.pictures import data_config_of
from timm_sbs.predictor.base_model import named_state
from timm_sbs.predictor.generator import relative_error
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import (
    LayerStatistics,
    collect_statistics,
    statistics_from_tensors,
    statistics_tensors,
)
from timm_sbs.training.losses.weight_uses import Use, find_uses
from timm_sbs.training.options.settings import SecondOrderSettings
from timm_sbs.training.run.images import sample_images
from timm_sbs.training.run.run import PhaseMonitor
from timm_sbs.training.run.task import Task, agreements_if_far_worse, measure_tensors
from timm_sbs.training.steps.second_order import second_order
from timm_sbs.training.steps.two_stage import TwoStageGenerator

__all__ = [
    'trace_uses', 'statistics_bytes', 'open_statistics', 'make_divergence', 'second_order_phase', 'corrected_kept',
]

SEEN = 'images and seconds'  # of the statistics, beside them in their file


def trace_uses(
        original: nn.Module,
        pretrained_cfg: Mapping[str, Any],
        specs: Sequence[WeightSpec],
) -> dict[str, Use]:
    """Uses of the generated weights, found with one empty image of the size that the original expects."""
    size = data_config_of(pretrained_cfg)['input_size']
    return find_uses(original, specs, torch.zeros(1, *size, device=next(original.parameters()).device))


def statistics_bytes(uses: Mapping[str, Use]) -> int:
    """Size of the statistics. While they are taken, and while they are damped, they are in memory twice."""
    return sum(use.bytes for use in uses.values())


def open_statistics(task: Task, uses: Mapping[str, Use]) -> dict[str, LayerStatistics]:
    """Statistics of the weights of a run, on its device. They are taken once, however often the run is resumed.

    Args:
        task: The run.
        uses: What :func:`trace_uses` returns.
    """
    run, original, settings = task.run, task.original, task.settings
    accelerator = run.accelerator
    original.to(accelerator.device)

    def collect() -> dict[str, Tensor]:
        before = run.seconds
        batches, count = sample_images(task.images, settings, task.drawn, accelerator)
        statistics, seen = collect_statistics(original, uses, batches, count, accelerator, task.seed)
        return {**statistics_tensors(statistics), SEEN: torch.tensor([float(seen), run.seconds - before])}

    tensors = dict(run.checkpoints.load_or_compute('statistics', collect))
    seen, seconds = tensors.pop(SEEN).tolist()
    run.results.update(statistics_images=int(seen), statistics_seconds=round(seconds, 1))
    return statistics_from_tensors({name: tensor.to(accelerator.device) for name, tensor in tensors.items()})


def make_divergence(
        task: Task,
        specs: Sequence[WeightSpec],
        uses: Mapping[str, Use],
        statistics: Mapping[str, LayerStatistics],
) -> ExpectedDivergence:
    """The second-order loss of a run for some weights, from what :func:`open_statistics` returns."""
    accelerator = task.run.accelerator
    divergence = ExpectedDivergence(
        specs, task.original.state_dict(), uses, statistics, task.settings.second_order.damping)
    if divergence.without_statistics:
        names = divergence.without_statistics
        say(accelerator, f"no statistics for {len(names)} weight(s), such as '{names[0]}', which no image reaches, or "
                         f'not as they are: their errors count by their squares')
    return divergence


def corrected_kept(
        original: nn.Module,
        divergence: ExpectedDivergence,
        weights: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Kept tensors that change: biases and BatchNorm means of the original, with which layers with ``weights`` have the
    original's mean outputs. All others are the original's."""
    state = named_state(original)
    return {
        name: (state[name].detach() + change.to(state[name].device)).to(state[name].dtype)
        for name, change in divergence.corrections(weights).items()}


def second_order_phase(
        task: Task,
        artifact: Artifact,
        divergence: ExpectedDivergence,
        settings: SecondOrderSettings,
        name: str = 'second-order',
) -> None:
    """Fit the weights by what their errors do. Steps that make the loss larger, or predictions fewer that stay, are
    undone."""
    run, accelerator = task.run, task.run.accelerator
    predictor = artifact.generator.predictor
    two_stage = TwoStageGenerator(artifact.generator, artifact.storage.quantization).to(accelerator.device)
    start = {key: tensor.detach().clone() for key, tensor in predictor.state_dict().items()}

    def load(tensors: Mapping[str, Tensor]) -> None:
        predictor.load_state_dict(without_prefix('predictor.', tensors))
        for key, tensor in without_prefix('start.', tensors).items():
            start[key].copy_(tensor)

    def corrected(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**weights, **corrected_kept(task.original, divergence, weights)}

    monitor = PhaseMonitor(
        run, name,
        tensors=lambda: {**with_prefix('predictor.', predictor.state_dict()), **with_prefix('start.', start)},
        load=load, steps_before=task.settings.steps_before(name))
    second_order(two_stage, divergence, settings, accelerator, task.seed, monitor, name)
    trained = {key: tensor.detach().clone() for key, tensor in predictor.state_dict().items()}
    weights = artifact.stored_weights()
    after = divergence.total(weights)
    predictor.load_state_dict(start)
    start_weights = artifact.stored_weights()
    before = divergence.total(start_weights)
    better = decided_once(lambda: after < before, accelerator)
    if not better:
        say(accelerator, f'{name}: the loss rose from {before:.4g} to {after:.4g}, so its steps are undone. Lower '
                         f'--second-order-lr.')
    elif worse := agreements_if_far_worse(task, corrected(weights), lambda: corrected(start_weights)):
        better = False
        say(accelerator, f'{name}: agreement fell from {worse[1]:.1f} to {worse[0]:.1f} %, so its steps are undone. '
                         f'Give more --statistics-images.')
    if better:
        predictor.load_state_dict(trained)
        say(accelerator, f'{name}: expected divergence {before:.4f} before, {after:.4f} after, {run.seconds:.1f} s in '
                         f'all')
    else:
        weights = start_weights
    key = name.replace('-', '_')
    run.results.update({
        'expected_divergence': min(before, after), f'{key}_steps': settings.steps * better,
        f'{key}_error': relative_error(weights, task.original.state_dict()),
        f'{key}_seconds': round(run.seconds, 1)})
    accelerator.free_memory()  # the optimizer
    last = name == 'second-order' and task.settings.quantizes and not task.settings.distils  # else the next measures
    measured = measure_tensors(task, corrected(weights), name) if last else {}
    run.add_row({'phase': name, 'step': settings.steps, **(monitor.last if better else {}), **measured})
