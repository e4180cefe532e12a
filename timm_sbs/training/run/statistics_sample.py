"""Statistics of no images, for some of the weights alone: enough to time what is done with those of all."""
from collections.abc import Mapping, Sequence

import torch

from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.losses.statistics import FEWEST_POSITIONS, LayerStatistics
from timm_sbs.training.losses.weight_uses import Use

__all__ = ['some_uses', 'empty_statistics', 'look_ratio', 'step_ratio']

SAMPLE_BYTES = 64_000_000  # of the second moments of some weights: ResNet-50's take 481 MB


def some_uses(uses: Mapping[str, Use]) -> dict[str, Use]:
    """Uses with the smallest statistics, as many as fit into 64 MB; one at the least."""
    chosen: set[str] = set()
    total = 0
    for name in sorted(uses, key=lambda name: uses[name].bytes):
        total += uses[name].bytes
        if chosen and total > SAMPLE_BYTES:
            break
        chosen.add(name)
    return {name: use for name, use in uses.items() if name in chosen}


def empty_statistics(
        specs: Sequence[WeightSpec],
        uses: Mapping[str, Use],
        device: torch.device,
) -> dict[str, LayerStatistics]:
    """Statistics of the weights in ``uses`` that hold zeros, with the shapes of real ones."""
    outputs = {spec.name: spec.shape[0] for spec in specs}

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device)

    return {
        name: LayerStatistics(
            zeros(use.groups, use.blocks, use.size, use.size), zeros(use.groups, use.blocks, use.size), zeros(),
            torch.ones(outputs[name], device=device))
        for name, use in uses.items()}


def look_ratio(specs: Sequence[WeightSpec], uses: Mapping[str, Use], some: Mapping[str, Use]) -> float:
    """Operations of a look at an image with statistics of all weights in ``uses``, over those with ``some``."""
    outputs = {spec.name: spec.shape[0] for spec in specs}

    def moments(name: str) -> int:
        use = uses[name]
        sampled = max(FEWEST_POSITIONS, 2 * use.positions * outputs[name] // (use.groups * use.size))
        return (min(use.positions, sampled) + 1) * use.groups * use.blocks * use.size ** 2

    passes = 2 * sum(  # forwards and backwards
        use.positions * outputs[name] * use.blocks * use.size for name, use in uses.items())
    return (passes + sum(map(moments, uses))) / (passes + sum(map(moments, some)))


def step_ratio(generator: Generator, uses: Mapping[str, Use], some: Mapping[str, Use]) -> float:
    """Operations of a second-order step with statistics of all weights in ``uses``, over those with ``some``."""
    outputs = {spec.name: spec.shape[0] for spec in generator.specs}

    def form(name: str) -> int:
        return outputs[name] * uses[name].blocks * uses[name].size ** 2

    places = sum(group.num_places for group in generator.groups)
    generation = 4 * places * generator.num_parameters  # forwards, again, and backwards
    return (generation + sum(map(form, uses))) / (generation + sum(map(form, some)))
