"""Rounding of all weights of a network into a wanted number of bits, by one slope of divergence for a bit."""
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_sbs.codec.quantization import QuantizedTensor, dequantize
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.progress import Progress
from timm_sbs.common.tensors import as_float64, with_prefix
from timm_sbs.training.losses.divergence import Curvature
from timm_sbs.training.rounding.one_weight import FINENESS, QUICK, THOROUGH, round_weight

__all__ = ['FEWEST_ROUNDED_BITS', 'MOST_ROUNDED_BITS', 'RoundedWeights', 'entropy_bits', 'round_to_bits']

FEWEST_ROUNDED_BITS, MOST_ROUNDED_BITS = 0.5, 10.  # of a weight: nobody sees what more bits buy
SAMPLE = 20_000  # values of each weight, from which the first slope is guessed
HALVINGS = 25  # of the span in which its logarithm lies
SLACK = 0.004  # of the wanted bits: half of what may be left
NEAR = 0.03  # of the wanted bits: quick passes have done what they can
TRIALS = 12  # of each kind, at the most
USUAL_TRIALS = 4  # of both kinds together
FARTHEST = 64.  # by which a slope beyond all others differs from the last
STEEPEST, FLATTEST = -10., -0.1  # of bits over slopes, in logarithms: what lies beyond is chance
NARROW = 1.01  # ratio of slopes that take too many bits and few enough: near enough to each other


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
    counts = as_float64(integers.flatten().unique(return_counts=True)[1])
    return float((counts * (counts.sum().log2() - counts.log2())).sum())


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


def _secant(tried: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """The slope at which the line through the last two points has the wanted logarithm of bits; None where there is no
    such line, for bits fall as slopes rise."""
    if len(tried) < 2:
        return None
    (before, bits_before), (last, bits) = tried[-2:]
    steepness = (bits - bits_before) / (last - before or math.inf)
    return math.exp(last + (wanted - bits) / steepness) if STEEPEST < steepness < FLATTEST else None


def _is_flat(tried: Sequence[tuple[float, float]]) -> bool:
    """Whether the last slope, at most half of the one before, took as many bits."""
    return len(tried) > 1 and tried[-1][0] < tried[-2][0] - math.log(2) and tried[-1][1] == tried[-2][1]


@torch.no_grad()
def round_to_bits(
        weights: Mapping[str, Tensor],
        curvatures: Mapping[str, Curvature],
        bits: float,
        name: str = 'rounding',
) -> RoundedWeights:
    """All weights in ``curvatures``, rounded by the slope with which they take at most so many bits.

    The slope is guessed from plain rounding, and the guess is put right by what second-order rounding takes, and then
    by how that changes: quickly until it is nearly right, and then thoroughly. Zeros make zeros cheaper, so that bits
    may jump where the slope moves a little: a guess outside of the slopes that took too many and too few bits gives way
    to their middle.

    ``bits`` are those of all integers, by a table for each weight; ``name`` is for the progress bar.

    Raises:
        ConfigError: With so few bits they would all be zeros.
    """
    plain, wanted, ratio = _PlainBits(weights, curvatures), bits * (1 - SLACK), 1.
    best, exhausted = None, False  # the latter: finer steps take no more bits
    numbers = itertools.count(1)
    with Progress(len(curvatures), name, 'weight') as progress:
        for passes in (QUICK, THOROUGH):
            low, high = 0., math.inf  # slopes with too many bits, and with few enough
            tried: list[tuple[float, float]] = []  # logarithms of slopes, and of the bits that they led to
            for _ in range(TRIALS):
                slope = _secant(tried, math.log(wanted)) or plain.slope(wanted / ratio)
                if not low < slope < high:
                    slope = math.sqrt(low * high) if low > 0 and high < math.inf else low * FARTHEST or high / FARTHEST
                progress.restart(f'{name}, trial {next(numbers)} (usually {USUAL_TRIALS})')
                tensors = {}
                for weight, curvature in curvatures.items():
                    tensors[weight] = round_weight(weights[weight], curvature, slope, passes)
                    progress.update()
                found = RoundedWeights(slope, tensors)
                taken = found.bits
                low, high = (slope, high) if taken > bits else (low, slope)
                ratio = taken / max(plain(slope), 1.) or ratio
                tried.append((math.log(slope), math.log(max(taken, 1.))))
                exhausted = exhausted or (0 < taken <= bits and _is_flat(tried))
                if passes == THOROUGH and 0 < taken <= bits and (best is None or slope < best.slope):
                    best = found
                near = abs(taken / wanted - 1) < (NEAR if passes == QUICK else SLACK)
                if near or exhausted or high < low * NARROW:
                    break
    if best is None:
        size = sum(weights[name].numel() for name in curvatures)
        raise ConfigError(
            f'{bits:,.0f} bits are too few for {size:,} weights: they would all be zero. Ask for more --bytes; '
            f'{FEWEST_ROUNDED_BITS:g} bits per weight make {FEWEST_ROUNDED_BITS * size:,.0f}.')
    return best
