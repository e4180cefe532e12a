"""How long it will take to round the original's own weights, from a few columns of some of them."""
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from timm_sbs.common.devices import shortest_seconds
from timm_sbs.training.losses.curvature import Curvature
from timm_sbs.training.losses.weight_uses import Use
from timm_sbs.training.run.step_timer import StepTimes
from timm_sbs.training.steps.rounding_slope import HALVINGS, SAMPLE, entropy_bits
from timm_sbs.training.steps.second_order_rounding import COLUMNS, QUICK, THOROUGH, Passes, round_weight

__all__ = ['SEARCHES', 'rounding_seconds']

# What was usual in sixteen runs of ResNet-20, ResNet-56 and ResNet-18, with images and without: there were 1 to 3
# searches for a slope where there was a budget of bytes, each of 1 to 6 quick trials and 1 to 4 thorough ones.
SEARCHES = 2
TRIALS = {QUICK: 2, THOROUGH: 2}
# Products with a weight's second moments in a trial, for each row: those in float64 count twice. To factorise the
# moments takes about as long as a product of each column.
PRODUCTS = {QUICK: 2.5, THOROUGH: 7.}
SLOPE = 0.1  # for random values: what they are rounded to makes no difference in time


@torch.no_grad()
def rounding_seconds(
        model: nn.Module,
        names: Sequence[str],
        uses: Mapping[str, Use],
        seconds_per_operation: float,
        device: torch.device,
) -> float:
    """Of one search for the slope with which weights take so many bits.

    How many trials a search makes shows only when it ends. Here it makes as many as were usual in the runs that were
    looked at, whose searches took from half as long to twice as long.

    Args:
        model: The original.
        names: Of the weights.
        uses: Of those that there are statistics of.
        seconds_per_operation: Of products with second moments.
        device: That weights are rounded on.
    """
    weights = {name: model.get_parameter(name) for name in names}
    counted = sum(HALVINGS * min(SAMPLE, weight.numel()) + weight.numel() for weight in weights.values())
    alone = sum(weight.numel() for name, weight in weights.items() if name not in uses)
    widths = {name: len(weights[name]) * use.blocks for name, use in uses.items()}  # values of a column
    by_width = sorted(uses, key=lambda name: widths[name])
    ends = by_width[::max(1, len(uses) - 1)]  # the narrowest and the widest
    total = sum(TRIALS.values()) * counted * _bit_seconds(device)
    for passes, trials in TRIALS.items():
        seconds = alone * _value_seconds(passes, device) if alone else 0.
        columns = StepTimes(0., {
            widths[name]: _column_seconds(len(weights[name]), uses[name], passes, device) for name in ends})
        for name, use in uses.items():
            products = PRODUCTS[passes] * len(weights[name]) + use.groups * use.size
            seconds += use.size * columns.of(widths[name])
            seconds += products * use.blocks * use.size ** 2 * seconds_per_operation
        total += trials * seconds
    return total


def _bit_seconds(device: torch.device) -> float:
    """Seconds for each integer whose bits are counted."""
    integers = torch.randn(SAMPLE, device=device).round()
    return shortest_seconds(lambda: entropy_bits(integers), device) / SAMPLE


def _value_seconds(passes: Passes, device: torch.device) -> float:
    """Seconds for each value of a weight without statistics."""
    values, curvature = torch.randn(1, SAMPLE, device=device), Curvature(torch.ones(1, device=device))
    return shortest_seconds(lambda: round_weight(values, curvature, SLOPE, passes=passes), device) / SAMPLE


def _column_seconds(outputs: int, use: Use, passes: Passes, device: torch.device) -> float:
    """Seconds for each column of a weight, beside products with all second moments."""
    count = min(COLUMNS, use.size)
    moment = torch.eye(count, device=device).expand(use.groups, use.blocks, count, count)
    values = torch.randn(outputs, use.blocks * count, device=device)
    curvature = Curvature(torch.ones(outputs, device=device), moment)
    return shortest_seconds(lambda: round_weight(values, curvature, SLOPE, passes=passes), device) / count
