"""Rounding of all weights of a network into a wanted number of bits, by one slope of divergence for a bit."""
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_sbs.codec.quantization import ROUNDED_LIMIT, QuantizedTensor, StepCodes, dequantize, quantize
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.float64 import as_float64
from timm_sbs.common.prefixes import with_prefix
from timm_sbs.common.progress import Progress
from timm_sbs.training.losses.curvature import Curvature
from timm_sbs.training.options.settings import FEWEST_ROUNDED_BITS
from timm_sbs.training.steps.second_order_rounding import FINENESS, QUICK, THOROUGH, Passes, round_weight

__all__ = ['RoundedWeights', 'entropy_bits', 'plain_bits', 'round_weights', 'round_to_bits']

SAMPLE = 20_000  # values of each weight, from which the first slope is guessed
HALVINGS = 25  # of the span in which its logarithm lies
SLACK = 0.004  # of the wanted bits: half of what may be left
NEAR = 0.03  # of the wanted bits: quick passes have done what they can
TRIALS = 12  # of each kind of passes, at the most; two are usual
FARTHEST = 64.  # by which the next slope differs from the last
NARROW = 1.01  # of a slope: half of that by which its step would be another


@dataclass(frozen=True, eq=False)
class RoundedWeights:
    """Weights as integers and steps, by name, and the slope that they were rounded by."""
    slope: float
    tensors: dict[str, QuantizedTensor]

    @property
    def bits(self) -> float:
        """Of an ideal entropy coder with one table for each weight. Tables and steps are not counted."""
        return sum(entropy_bits(tensor.integers) for tensor in self.tensors.values())

    @property
    def values(self) -> dict[str, Tensor]:
        """As an artifact has them, by name, on the CPU."""
        return {name: dequantize(tensor).cpu().contiguous() for name, tensor in self.tensors.items()}

    @property
    def steps(self) -> dict[str, Tensor]:
        """Codes of their steps, as an artifact has them, by 'rounded.' and the name, on the CPU."""
        return with_prefix('rounded.', {name: tensor.codes.cpu() for name, tensor in self.tensors.items()})


def entropy_bits(integers: Tensor) -> float:
    """Bits of integers with an ideal entropy coder and a table of their frequencies, itself not counted."""
    counts = as_float64(integers.flatten().unique(return_counts=True)[1].float())
    return float((counts * (counts.sum().log2() - counts.log2())).sum())


def plain_bits(weights: Mapping[str, Tensor], steps: StepCodes) -> float:
    """Bits of weights that are rounded to the nearest; codes of their steps are those of an artifact."""
    return sum(
        entropy_bits(quantize(weight, steps[f'rounded.{name}'].to(weight.device), ROUNDED_LIMIT).integers)
        for name, weight in weights.items())


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


class _Slopes:
    """Slopes that were tried with some passes, and the next one to try.

    The first is guessed from plain rounding, and the next from how many bits that took. Steps are sixteenths of an
    octave, and zeros make zeros cheaper, so that bits may jump or fall far where the slope moves a little: between a
    slope with too many bits and one with too few, the next lies by the line through both, and in the middle where that
    moved the same side twice.
    """

    def __init__(self, plain: _PlainBits, wanted: float, ratio: float) -> None:
        """``ratio`` of the bits that these passes take to those of plain rounding, as far as known."""
        self._plain, self._wanted, self.ratio = plain, wanted, ratio
        self._tried: list[tuple[float, float]] = []
        self._sides: dict[bool, tuple[float, float]] = {}  # too many: slope and bits

    def next(self) -> float:
        if len(self._sides) > 1:
            (first, taken), (second, also) = self._sides[True], self._sides[False]
            before, last = (bits > self._wanted for _, bits in self._tried[-2:])
            part = 0.5 if before == last else (self._wanted - taken) / (also - taken)
            return float(first * (second / first) ** part)
        guess = self._plain.slope(self._wanted / self.ratio)
        if not self._tried:
            return guess
        slope, taken = self._tried[-1]
        return min(max(guess, slope / FARTHEST), slope * FARTHEST) if taken else slope / FARTHEST

    def add(self, slope: float, taken: float) -> None:
        self._sides[taken > self._wanted] = slope, taken
        self._tried.append((slope, taken))
        if taken:
            self.ratio = taken / max(self._plain(slope), 1.)

    @property
    def exhausted(self) -> bool:
        """Whether no other slope is nearer: steps are the finest already, or both sides nearly the same."""
        if len(self._sides) > 1:
            return self._sides[False][0] < self._sides[True][0] * NARROW
        return len(self._tried) > 1 and 0 < self._tried[-1][1] == self._tried[-2][1] < self._wanted


@torch.no_grad()
def round_to_bits(
        weights: Mapping[str, Tensor],
        curvatures: Mapping[str, Curvature],
        bits: float,
) -> RoundedWeights:
    """All weights in ``curvatures``, rounded by the slope with which they take at most so many bits.

    The slope is guessed from plain rounding, and the guess is put right by what second-order rounding takes: quickly
    until that is nearly right, and then thoroughly.

    Args:
        weights: Of these names.
        curvatures: What their errors do.
        bits: Of all integers, by a table for each weight.

    Raises:
        ConfigError: With so few bits they would all be zeros.
    """
    plain, wanted, ratio = _PlainBits(weights, curvatures), bits * (1 - SLACK), 1.
    best: RoundedWeights | None = None
    with Progress(None, 'rounding', 'weight') as progress:
        for passes in (QUICK, THOROUGH):
            last = passes is THOROUGH
            slopes = _Slopes(plain, wanted, ratio)
            for _ in range(TRIALS):
                found = round_weights(weights, curvatures, slopes.next(), passes, progress)
                taken = found.bits
                slopes.add(found.slope, taken)
                progress.show(bits=f'{taken:,.0f} of {bits:,.0f}')
                if last and 0 < taken <= bits and (best is None or found.slope < best.slope):
                    best = found
                near = bits * (1 - 2 * SLACK) <= taken <= bits if last else abs(taken / wanted - 1) < NEAR
                if near or slopes.exhausted:
                    break
            ratio = slopes.ratio
    if best is None:
        size = sum(weights[name].numel() for name in curvatures)
        raise ConfigError(
            f'{bits:,.0f} bits are too few for {size:,} weights: no step leaves some that are not zero. Ask for more '
            f'bytes (--bytes) or bits of a weight (--bits): {FEWEST_ROUNDED_BITS:g} bits make '
            f'{FEWEST_ROUNDED_BITS * size:,.0f}.')
    return best
