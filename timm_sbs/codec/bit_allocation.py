"""Bits of each layer of a predictor: more where errors matter more."""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_sbs.codec.quantization import layer_names, stored_predictor
from timm_sbs.common.config import QuantizationConfig, StorageConfig
from timm_sbs.predictor.generator import Generator, relative_error

__all__ = ['FEWEST', 'MOST', 'Influence', 'measure_influence', 'divide_bits']

TRIAL_BITS = 6.  # at which a layer's influence is measured: fine enough for errors to be proportional to step sizes
FEWEST, MOST = 2., 8.
EXACT_BITS = 12.  # of all other layers meanwhile
GRID = 16  # bits are multiples of 1/16, as steps are powers of 2^(1/16)


@dataclass(frozen=True)
class Influence:
    """A layer of a predictor: its weights, and the error of all kernels when it is rounded at 6 bits."""
    weights: int
    error: float


@torch.no_grad()
def measure_influence(
        generator: Generator,
        error: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], float] | None = None,
) -> tuple[Influence, ...]:
    """How much rounding each layer of the predictor, trunk and then heads, changes the generated kernels.

    ``error`` is that of changes from some generated weights to others, quadratic in these; None: the relative error,
    which needs no data.
    """
    predictor = generator.predictor
    names = layer_names(predictor.state_dict())
    exact = generator()
    found = []
    for index, name in enumerate(names):
        trial = tuple(TRIAL_BITS if i == index else EXACT_BITS for i in range(len(names)))
        rounded = stored_predictor(predictor, StorageConfig(quantization=QuantizationConfig(trial)))
        weights = generator.with_predictor(rounded)()
        change = error(exact, weights) if error else relative_error(weights, exact)
        found.append(Influence(predictor.get_parameter(f'{name}.weight').numel(), max(change, 1e-30)))
    return tuple(found)


def divide_bits(influence: Sequence[Influence], mean_bits: float) -> tuple[float, ...]:
    """Bits of each layer that minimise the error of the generated kernels, with a mean of ``mean_bits`` per weight.

    Rounding a layer of n weights at b bits adds an error c * 4^-b. The sum of errors is smallest, at a given number of
    bits, where b = 0.5 * log2(c / n) + constant (reverse water-filling). They are multiples of 1/16 from 2 to 8.
    """
    wanted = [0.5 * math.log2(layer.error / layer.weights) for layer in influence]
    total = sum(layer.weights for layer in influence)
    low, high = FEWEST - max(wanted), MOST - min(wanted)  # of the constant; clamped bits grow with it
    for _ in range(60):
        middle = (low + high) / 2
        if sum(b * layer.weights for b, layer in zip(_clamped(wanted, middle), influence)) > mean_bits * total:
            high = middle
        else:
            low = middle
    return tuple(math.floor(b * GRID + 1e-6) / GRID for b in _clamped(wanted, low))


def _clamped(wanted: Sequence[float], constant: float) -> list[float]:
    return [min(MOST, max(FEWEST, value + constant)) for value in wanted]
