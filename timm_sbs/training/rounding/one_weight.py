"""Rounding of original weights: integers and steps with the least divergence + slope * bits.

Values of a row are settled one after another, and those after each make up for its error, as in GPTQ (arXiv
2210.17323) and successive cancellation; each decision weighs the bits that the integer takes in the entropy-coded file.
Then values are settled again in the light of all others.
"""
import math

import torch
from torch import Tensor

from timm_sbs.codec.quantization import (
    LARGEST_CODE,
    ROUNDED_LIMIT,
    SMALLEST_CODE,
    STEPS_PER_OCTAVE,
    QuantizedTensor,
    finest_code,
    step_sizes,
)
from timm_sbs.common.tensors import as_float64
from timm_sbs.training.losses.divergence import Curvature, Factor

__all__ = ['FINENESS', 'QUICK', 'THOROUGH', 'round_weight', 'step_code']

COLUMNS = 64  # that are settled before their errors go to all that follow
FINENESS = 0.8  # squared step over that at which uniform rounding has the slope: rounding prefers zeros besides
TABLE = 255  # larger integers are taken to cost as much
QUICK, THOROUGH = 0, 3  # passes in which values are settled again
GAIN_TURNS, GAIN_SHARE, MOST_GAIN = 3, 0.6, 3.  # of rows: with all that is missing added at once, gains oscillate
SMALLEST_PART = 0.1  # of a row's outputs, by which a gain is found: a row of zeros has none


def step_code(curvature: Curvature, slope: float) -> Tensor:
    """Step of a weight, in sixteenths of an octave: [], int32.

    Steps of rows by their own importance were measured to gain nothing on ResNet-20, and cost bytes.

    ``slope`` is the divergence, in nats, that one bit less may cost, the same for all weights. By uniform rounding it
    costs importance * variance * step^2 * ln(2) / 12, the mean over rows.
    """
    importance = as_float64(curvature.importance).mean()
    code = STEPS_PER_OCTAVE / 2 * torch.log2(FINENESS * 12 * slope / (math.log(2) * importance * curvature.variance))
    return code.round().clamp(SMALLEST_CODE, LARGEST_CODE).int().to(curvature.importance.device)


def round_weight(
        weight: Tensor, curvature: Curvature, slope: float, passes: int = THOROUGH) -> QuantizedTensor:
    """A weight as integers times a step, with little divergence + slope * bits.

    Bits are those of an entropy coder with one table of frequencies for the weight.

    Args:
        weight: [O, ...], of a convolution with any groups or a linear layer, on the curvature's device.
        slope: Nats of divergence for a bit.
        passes: In which values are settled again, each with a new table.

    Example:
        >>> rounded = round_weight(weight, curvatures(weights, statistics, 1e-3)[name], slope=1e-7)
        >>> dequantize(rounded)
    """
    weight = weight.detach().to(curvature.importance)
    code = torch.maximum(step_code(curvature, slope), finest_code(weight))
    steps = curvature.per_part(step_sizes(code).expand(len(weight)))
    target = curvature.parts(weight)
    prices = curvature.per_part(curvature.importance) * steps.square() / (2 * slope)  # bits for a squared error of 1
    if curvature.matrix is None:
        integers = _settled_alone(target / steps[..., None], prices[..., None], passes)
    else:
        target = target.mT.contiguous()  # [P, d, R]: rows lie side by side
        prior = _prior(weight, curvature, slope)
        factor = curvature.factor(prior)
        aim = _shrunk(target, factor, prior)
        if curvature.coupling > 1:
            gains = _gains(target, aim, steps, prices, factor, prior, curvature)
            target, aim = target * gains, aim * gains
        integers = _cancelled(target, aim, steps, prices, factor, prior)
        for _ in range(passes):
            integers = _settled_again(integers, target, steps, prices, curvature.matrix)
        integers = integers.mT
    values = curvature.rows(integers, weight.shape).int().clamp(-ROUNDED_LIMIT, ROUNDED_LIMIT)
    return QuantizedTensor(values, code)


def _prior(weight: Tensor, curvature: Curvature, slope: float) -> float:
    """Curvature of the bits of normally distributed values, as the slope counts them: values that are still to be
    settled are not free to make up for all errors."""
    power = float((curvature.importance * weight.flatten(1).square().mean(1)).mean())
    return slope / (math.log(2) * max(power, 1e-30))


def _bits(integers: Tensor) -> Tensor:
    """What integers from -TABLE to TABLE cost with a table of the frequencies of some: [2 TABLE + 1]."""
    counts = torch.bincount(integers.flatten().long().clamp(-TABLE, TABLE) + TABLE, minlength=2 * TABLE + 1) + 0.3
    return -torch.log2(counts / counts.sum())


def _cheapest(candidates: Tensor, errors: Tensor, bits: Tensor) -> Tensor:
    """The candidates [C, ...] whose errors, in bits, and own bits are the fewest, value by value."""
    costs = errors.add_(bits.take(candidates.clamp(-TABLE, TABLE).long() + TABLE))
    return candidates.gather(0, costs.argmin(0, keepdim=True))[0]


def _towards_zero(nearest: Tensor) -> Tensor:
    return torch.stack((nearest, nearest - nearest.sign(), torch.zeros_like(nearest)))


def _settled_alone(exact: Tensor, prices: Tensor, passes: int) -> Tensor:
    """Integers for values [P, R, d] in steps, of which none can make up for another."""
    candidates = _towards_zero(exact.round())
    integers = candidates[0]
    for _ in range(2 + passes):
        integers = _cheapest(candidates, prices * (exact - candidates).square(), _bits(integers))
    return integers


def _shrunk(target: Tensor, factor: Factor, prior: float) -> Tensor:
    """What rows [P, d, R] become at the minimum of divergence and the prior of their bits together."""
    solved = torch.linalg.solve_triangular(factor.upper, target.to(factor.upper), upper=True)
    solved = torch.linalg.solve_triangular(factor.upper.mT, solved, upper=False)
    return target - (prior * solved).to(target)


def _gains(
        target: Tensor, aim: Tensor, steps: Tensor, prices: Tensor, factor: Factor, prior: float, curvature: Curvature,
) -> Tensor:
    """By how much each row [P, d, R] has to be longer for its integers to have the right length: [P, 1, R].

    Small integers are cheap, so that integers with a part k < 1 of a row's outputs are the best for errors that count
    alike wherever they are. If those along the row cost c times as much, its noise and its length together cost least
    at a part c k / (1 + (c - 1) k).
    """
    assert curvature.matrix is not None
    pulled = curvature.matrix @ target
    power = (target * pulled).sum(1, keepdim=True).clamp(min=1e-30)

    def part_left(gains: Tensor) -> Tensor:
        integers = _cancelled(target * gains, aim * gains, steps, prices, factor, prior)
        return ((integers * steps[:, None] * pulled).sum(1, keepdim=True) / power).clamp(min=SMALLEST_PART)

    gains = torch.ones_like(power)
    part = part_left(gains)
    wanted = curvature.coupling * part / (1 + (curvature.coupling - 1) * part)
    for turn in range(GAIN_TURNS):
        part = part_left(gains) if turn else part
        gains = (gains * (1 + GAIN_SHARE * (wanted / part - 1))).clamp(max=MOST_GAIN)
    return gains


def _cancelled(
        target: Tensor, aim: Tensor, steps: Tensor, prices: Tensor, factor: Factor, prior: float) -> Tensor:
    """Integers [P, d, R] by successive cancellation, with the bits of those to the nearest.

    With the bits of values to come as a prior, ``aim`` (:func:`_shrunk`) is to be met. A value's own share of the prior
    is taken back, since its bits are known.
    """
    integers = (target / steps[:, None]).round()
    variances, mixing = factor.variances, factor.mixing
    own, bits, errors = prices * prior, _bits(integers), torch.empty_like(aim)
    for start in range(0, target.shape[1], COLUMNS):
        stop = min(start + COLUMNS, target.shape[1])
        rest = aim[:, start:stop] - mixing[:, start:stop, :start] @ errors[:, :start]
        for column in range(start, stop):
            made_up = torch.bmm(mixing[:, column, None, start:column], errors[:, start:column])[:, 0]
            exact = (rest[:, column - start] - made_up) / steps
            candidates = _towards_zero(exact.round())
            costs = (exact - candidates).square_().mul_(prices * variances[:, column, None])
            chosen = _cheapest(candidates, costs.sub_(candidates.square().mul_(own)), bits)
            integers[:, column] = chosen
            errors[:, column] = chosen * steps - aim[:, column]
    return integers


def _settled_again(integers: Tensor, target: Tensor, steps: Tensor, prices: Tensor, moment: Tensor) -> Tensor:
    """Each integer [P, d, R] in turn becomes one more, one less, zero, or stays: the cheapest with all others as they
    are."""
    integers, bits = integers.clone(), _bits(integers)
    pull = moment @ (integers - target / steps[:, None])  # half the derivative by each integer
    for start in range(0, target.shape[1], COLUMNS):
        stop = min(start + COLUMNS, target.shape[1])
        here, changes = pull[:, start:stop].clone(), torch.zeros_like(pull[:, start:stop])
        for column in range(start, stop):
            before = integers[:, column]
            pulled = here[:, column - start] + torch.bmm(
                moment[:, column, None, start:column], changes[:, :column - start])[:, 0]
            candidates = torch.stack((before, before + 1, before - 1, torch.zeros_like(before)))
            moves = candidates - before
            costs = (moment[:, column, column, None] * moves).add_(2 * pulled).mul_(moves).mul_(prices)
            change = _cheapest(candidates, costs, bits) - before
            integers[:, column] += change
            changes[:, column - start] = change
        pull[:, stop:] += moment[:, stop:, start:stop] @ changes
    return integers
