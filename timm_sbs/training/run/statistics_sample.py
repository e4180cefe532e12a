"""Statistics of no images, for some of the weights alone, and the operations that those of the others take."""
from collections.abc import Mapping

import torch
from torch import nn

from timm_sbs.common.devices import shortest_seconds
from timm_sbs.training.losses.statistics import FEWEST_POSITIONS, LayerStatistics
from timm_sbs.training.losses.weight_uses import Use

__all__ = ['some_uses', 'empty_statistics', 'product_rate', 'look_operations', 'step_operations']

SAMPLE_BYTES = 64_000_000  # of the second moments of some weights: ResNet-50's take 481 MB
COLUMNS = 256  # of a product that is timed


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


def empty_statistics(model: nn.Module, uses: Mapping[str, Use], device: torch.device) -> dict[str, LayerStatistics]:
    """Statistics of the weights in ``uses`` that hold zeros, with the shapes of real ones."""
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device)

    return {
        name: LayerStatistics(
            zeros(use.groups, use.blocks, use.size, use.size), zeros(use.groups, use.blocks, use.size), zeros(),
            torch.ones(_outputs(model, name), device=device))
        for name, use in uses.items()}


def product_rate(size: int, device: torch.device) -> float:
    """Operations a second of products with second moments of this size, in float32 as they all are."""
    moment, inputs = torch.zeros(size, size, device=device), torch.ones(size, COLUMNS, device=device)
    seconds = shortest_seconds(lambda: moment.addmm_(inputs, inputs.T), device)
    return size ** 2 * COLUMNS / max(seconds, 1e-9)


def look_operations(model: nn.Module, uses: Mapping[str, Use]) -> int:
    """Operations of the second moments of some weights, for an image."""
    total = 0
    for name, use in uses.items():
        sampled = max(FEWEST_POSITIONS, 2 * use.positions * _outputs(model, name) // (use.groups * use.size))
        total += (min(use.positions, sampled) + 1) * use.groups * use.blocks * use.size ** 2
    return total


def step_operations(model: nn.Module, uses: Mapping[str, Use]) -> int:
    """Operations of the second-order loss of some weights, for all of their filters."""
    return sum(_outputs(model, name) * use.blocks * use.size ** 2 for name, use in uses.items())


def _outputs(model: nn.Module, name: str) -> int:
    """Of a weight, generated or rounded."""
    return len(model.get_parameter(name))
