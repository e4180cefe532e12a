"""The phase that rounds the original's own weights, before any step on images."""
import dataclasses
import functools
from collections.abc import Mapping

from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.prefixes import with_prefix, without_prefix
from timm_sbs.common.progress import say
from timm_sbs.predictor.generator import relative_error
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.training.losses.curvature import Curvature, curvatures
from timm_sbs.training.losses.statistics import LayerStatistics
from timm_sbs.training.losses.weight_uses import Use
from timm_sbs.training.options.settings import MOST_ROUNDED_BITS
from timm_sbs.training.run.calibration import corrected_kept, make_divergence, open_statistics
from timm_sbs.training.run.image_phase import byte_budget, results_with_room
from timm_sbs.training.run.task import Task, agreements_if_far_worse, measure_tensors
from timm_sbs.training.steps.rounding_slope import RoundedWeights, plain_bits, round_to_bits

__all__ = ['rounding_phase']

ATTEMPTS = 3  # to find out how many bits of one table for each weight a budget has room for
CLOSE = 0.975  # of these: near enough


def rounding_phase(
        task: Task,
        artifact: Artifact,
        uses: Mapping[str, Use],
) -> tuple[Artifact, dict[str, Tensor]]:
    """Round the original's weights so that predictions change least for the bits that there are.

    Args:
        task: The run.
        artifact: With rounded weights, and nothing generated.
        uses: Of these weights, if there are images to look at; without any, all errors count by their squares.

    Returns:
        The artifact with rounded weights and their steps, and kept tensors that make up for the rounding.
    """
    state = {name: tensor.detach() for name, tensor in task.original.state_dict().items()}
    specs = specs_from_names(tuple(artifact.rounded), artifact.base.state, artifact.base.name)
    statistics = open_statistics(task, uses) if uses else {}
    divergence = make_divergence(task, specs, uses, statistics) if uses else None
    weights = {name: state[name] for name in artifact.rounded}

    def round_by(statistics: Mapping[str, LayerStatistics], name: str) -> tuple[Artifact, dict[str, Tensor]]:
        found = task.run.checkpoints.load_or_compute(name, lambda: decided_once(lambda: _rounded(
            task, artifact, curvatures(weights, statistics, task.settings.second_order.damping)), task.run.accelerator))
        rounded = {name: tensor.to(state[name].device) for name, tensor in without_prefix('weight.', found).items()}
        kept = corrected_kept(task.original, divergence, rounded) if divergence and statistics else {}
        return dataclasses.replace(artifact, rounded=rounded, steps=without_prefix('steps.', found)), kept

    alone = functools.cache(lambda: round_by({}, 'rounded_alone')[0])
    chosen, kept = round_by(statistics, 'rounded')
    if statistics and (worse := agreements_if_far_worse(
            task, {**chosen.rounded, **kept}, lambda: alone().rounded)):
        chosen, kept = alone(), {}
        say(task.run.accelerator, f'rounding by statistics keeps {worse[0]:.1f} % of the predictions, without them '
                                  f'{worse[1]:.1f} %: these are taken')
    artifact, rounded = chosen, chosen.rounded
    if task.run.checkpoint:
        return artifact, kept  # it was told before the run was killed
    error = relative_error(rounded, state)
    task.run.results['rounding_error'] = error
    told = f', expected divergence {divergence.total(rounded):.4f}' if divergence else ''
    say(task.run.accelerator, f'rounding: error {error:.4f}{told} after {task.run.seconds:.1f} s')
    measured = measure_tensors(task, {**rounded, **kept}, 'rounding')
    task.run.add_row({'phase': 'rounding', 'step': 0, **measured})
    return artifact, kept


def _rounded(task: Task, artifact: Artifact, curved: Mapping[str, Curvature]) -> dict[str, Tensor]:
    """Rounded weights and codes of their steps, as tensors of a file."""
    settings, state = task.settings.quantization, task.original.state_dict()
    weights = {name: state[name].detach().to(curved[name].importance.device) for name in artifact.rounded}
    quantized = artifact.quantized(QuantizationConfig(kept_bits=settings.kept_bits)).with_kept(task.original)
    quantized = quantized.with_results(results_with_room(task))
    budget = byte_budget(task, quantized)
    size = sum(weight.numel() for weight in weights.values())
    if budget is None:
        if settings.bits is None:
            raise ConfigError('Nothing says how many bits rounded weights are to have: --bits or --bytes does.')
        return _tensors(round_to_bits(weights, curved, settings.bits * size))
    most = MOST_ROUNDED_BITS * size
    wanted, before = min(most, budget.wanted_bits(quantized, plain_bits(weights, quantized.steps))), 0.
    for attempt in range(ATTEMPTS):
        found = round_to_bits(weights, curved, wanted)
        candidate = dataclasses.replace(quantized, rounded=found.values, steps=found.steps)
        right = min(most, budget.wanted_bits(candidate, found.bits))
        if found.bits <= right and (found.bits >= CLOSE * right or found.bits == before):  # nothing is nearer
            break
        before = found.bits
        wanted = right if attempt + 2 < ATTEMPTS else CLOSE * right
    return _tensors(found)


def _tensors(found: RoundedWeights) -> dict[str, Tensor]:
    return {**with_prefix('weight.', found.values), **with_prefix('steps.', found.steps)}
