"""Rounding of all weights of a network into a wanted number of bits, by one slope of divergence for a bit."""
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_sbs.codec.quantization import QuantizedTensor
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.float64 import as_float64
from timm_sbs.common.progress import Progress
from timm_sbs.training.losses.curvature import Curvature
from timm_sbs.training.options.settings import FEWEST_ROUNDED_BITS
from timm_sbs.training.steps.second_order_rounding import FINENESS, QUICK, THOROUGH, Passes, round_weight

__all__ = ['HALVINGS', 'SAMPLE', 'RoundedWeights', 'entropy_bits', 'round_weights', 'round_to_bits']

SAMPLE = 20_000  # values of each weight, from which the first slope is guessed
HALVINGS = 25  # of the span in which its logarithm lies
SLACK = 0.004  # of the wanted bits: half of what may be left
TRIALS = 12  # at most; four are usual


@dataclass(frozen=True, eq=False)
class RoundedWeights:
    """Weights as integers and steps, by name, and the slope that they were rounded by."""
    slope: float
    tensors: dict[str, QuantizedTensor]

    @property
    def bits(self) -> float:
        """Of an ideal entropy coder with one table for each weight. Tables and steps are not counted."""
        return sum(entropy_bits(tensor.integers) for tensor in self.tensors.values())


def entropy_bits(integers: Tensor) -> float:
    """Bits of integers with an ideal entropy coder and a table of their frequencies, itself not counted."""
    counts = as_float64(integers.flatten().unique(return_counts=True)[1].float())
    return float((counts * (counts.sum().log2() - counts.log2())).sum())


@torch.no_grad()
def round_weights(
        weights: Mapping[str, Tensor],
        curvatures: Mapping[str, Curvature],
        slope: float,
        passes: Passes = THOROUGH,
        progress: Progress | None = None,
) -> RoundedWeights:
    """All weights in ``curvatures``, rounded by one slope: see :func:`round_weight`."""
    tensors = {}
    for name, curvature in curvatures.items():
        tensors[name] = round_weight(weights[name], curvature, slope, passes=passes)
        if progress:
            progress.update()
    return RoundedWeights(slope, tensors)


class _PlainBits:
    """Bits of weights that are rounded to the nearest, from some of their values, in no time."""

    def __init__(self, weights: Mapping[str, Tensor], curvatures: Mapping[str, Curvature]) -> None:
        self._samples: list[tuple[Tensor, float]] = []
        for name, curvature in curvatures.items():
            scale = (curvature.importance.mean() * curvature.variance * math.log(2) / (12 * FINENESS)).sqrt()
            values = (weights[name].detach().to(scale) * scale).flatten()
            sample = values[::math.ceil(len(values) / SAMPLE)]
            self._samples.append((sample, len(values) / len(sample)))

    def __call__(self, slope: float) -> float:
        return sum(share * entropy_bits((sample / math.sqrt(slope)).round()) for sample, share in self._samples)

    def slope(self, bits: float) -> float:
        """The slope with so many bits: its logarithm by bisection."""
        coarsest = max(float(sample.abs().max()) for sample, _ in self._samples) ** 2 * 4 + 1e-30
        low, high = math.log2(coarsest) - 50, math.log2(coarsest)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self(2 ** middle) > bits else (low, middle)
        return 2 ** high


def _between(one: tuple[float, float], other: tuple[float, float], bits: float) -> float:
    """The slope with so many bits, of two slopes and their bits: its logarithm lies on the line through both.

    Steps are sixteenths of an octave, so that bits jump where the slope moves a little. The guess from plain rounding
    alone would go around what is wanted.
    """
    (first, taken), (second, also) = one, other
    part = 0.5 if taken == also else (bits - taken) / (also - taken)
    return float(first * (second / first) ** part)


@torch.no_grad()
def round_to_bits(
        weights: Mapping[str, Tensor],
        curvatures: Mapping[str, Curvature],
        bits: float,
        quiet: bool = False,
) -> RoundedWeights:
    """All weights in ``curvatures``, rounded by the slope with which they take at most so many bits.

    The slope is guessed from plain rounding, and the guess is put right by what second-order rounding takes: quickly
    until that is nearly right, and then thoroughly. At low rates zeros make zeros cheaper, so that the bits fall far
    faster than the guess says: then the slope lies between two that were tried.

    Raises:
        ConfigError: They would all be zeros.
    """
    plain = _PlainBits(weights, curvatures)
    wanted, ratio, passes = bits * (1 - SLACK), 1., QUICK
    best: RoundedWeights | None = None
    around: dict[tuple[Passes, bool], tuple[float, float]] = {}  # passes, too many: the last slope, and what it took
    with Progress(None, 'rounding', 'weight', quiet=quiet) as progress:
        for _ in range(TRIALS):
            sides = [around[passes, above] for above in (True, False) if (passes, above) in around]
            slope = _between(*sides, wanted) if len(sides) > 1 else plain.slope(wanted / ratio)
            found = round_weights(weights, curvatures, slope, passes, progress)
            taken = found.bits
            if not taken:
                size = sum(weights[name].numel() for name in curvatures)
                raise ConfigError(
                    f'{bits:,.0f} bits are too few for {size:,} weights: all would be zeros. Ask for more bytes '
                    f'(--bytes) or bits of a weight (--bits): the least are {FEWEST_ROUNDED_BITS:g} bits, which make '
                    f'{FEWEST_ROUNDED_BITS * size:,.0f}.')
            progress.show(bits=f'{taken:,.0f} of {bits:,.0f}')
            if passes is THOROUGH and taken <= bits and (best is None or found.slope < best.slope):
                best = found
            around[passes, taken > wanted] = found.slope, taken
            if passes is THOROUGH and bits * (1 - 2 * SLACK) <= taken <= bits:
                break
            ratio = taken / max(plain(found.slope), 1.)
            if abs(taken / wanted - 1) < 0.03:
                passes = THOROUGH
        if best is None:
            best = round_weights(weights, curvatures, plain.slope(0.9 * wanted / ratio), THOROUGH, progress)
    if best.bits > bits:
        raise ConfigError(
            f'No slope with {bits:,.0f} bits was found; the nearest takes {best.bits:,.0f}. Ask for a little more, by '
            f'--bytes or --bits.')
    return best
