"""Bits of each layer of a predictor: more where errors matter more."""
import dataclasses
import math
from dataclasses import dataclass
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from timm_sbs.artifact import Artifact, artifact_sizes, as_stored
from timm_sbs.config import QuantizationConfig, SbsConfig
from timm_sbs.generate import GenerationPlan, generate_weights
from timm_sbs.predictor import Predictor
from timm_sbs.quantization import layer_names

__all__ = ['FEWEST', 'MOST', 'Influence', 'measure_influence', 'divide_bits', 'lower_bits_to_fit']

TRIAL_BITS = 6.  # at which a layer's influence is measured: fine enough for errors to be proportional to step sizes
FEWEST, MOST = 2., 8.
EXACT_BITS = 12.  # of all other layers meanwhile
GRID = 16  # bits are multiples of 1/16, as steps are powers of 2^(1/16)


@dataclass(frozen=True)
class Influence:
    """A layer of a predictor: its weights, and the error of all kernels when it is rounded at 6 bits."""
    weights: int
    error: float


Weights = Mapping[str, Tensor]


def _squared_error(weights: Weights, others: Weights) -> float:
    return sum(float((others[name] - weight).double().square().sum()) for name, weight in weights.items())


@torch.no_grad()
def measure_influence(
        predictor: Predictor,
        plan: GenerationPlan,
        error: Optional[Callable[[Weights, Weights], float]] = None,
) -> Tuple[Influence, ...]:
    """How much rounding each layer changes the generated kernels.

    Args:
        predictor: A trained predictor.
        plan: Its generation.
        error: Of changes from some generated weights to others, quadratic in these; None: the squared error, which
            needs no data.

    Returns:
        One entry for each of the trunk's layers and for each head.
    """
    names = layer_names(predictor.state_dict())
    exact = generate_weights(predictor, plan)
    found = []
    for index, name in enumerate(names):
        trial = tuple(TRIAL_BITS if i == index else EXACT_BITS for i in range(len(names)))
        stored = as_stored(predictor, _with_bits(plan.config, trial))
        change = (error or _squared_error)(exact, generate_weights(stored, plan))
        found.append(Influence(predictor.get_parameter(f'{name}.weight').numel(), max(change, 1e-30)))
    return tuple(found)


def divide_bits(influence: Sequence[Influence], mean_bits: float) -> Tuple[float, ...]:
    """Bits of each layer that minimise the error of the generated kernels, with a mean of ``mean_bits`` per weight.

    Rounding a layer of n weights at b bits adds an error c * 4^-b. The sum of errors is smallest, at a given number of
    bits, where b = 0.5 * log2(c / n) + constant (reverse water-filling).

    Returns:
        Multiples of 1/16 from 2 to 8.
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


def _clamped(wanted: Sequence[float], constant: float) -> List[float]:
    return [min(MOST, max(FEWEST, value + constant)) for value in wanted]


def _with_bits(config: SbsConfig, bits: Tuple[float, ...]) -> SbsConfig:
    quantization = config.quantization or QuantizationConfig(bits)
    return dataclasses.replace(config, quantization=dataclasses.replace(quantization, layer_bits=bits))


def lower_bits_to_fit(artifact: Artifact, max_bytes: int) -> QuantizationConfig:
    """The artifact's quantization, with as many bits less in every layer as both files need to fit into ``max_bytes``.

    If even the fewest bits do not suffice, these are returned.
    """
    quantization = artifact.config.quantization
    while True:
        config = dataclasses.replace(artifact.config, quantization=quantization)
        excess = artifact_sizes(dataclasses.replace(artifact, config=config))['total'] - max_bytes
        if excess <= 0 or max(quantization.layer_bits) <= FEWEST:
            return quantization
        less = math.ceil(GRID * 8 * excess / sum(p.numel() for p in artifact.predictor.parameters())) / GRID
        quantization = dataclasses.replace(
            quantization, layer_bits=tuple(max(FEWEST, bits - less) for bits in quantization.layer_bits))
