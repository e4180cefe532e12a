"""Rounding: original weights to integers into a number of bytes, or a trained predictor to the bits of its layers."""
import dataclasses
import functools
from collections.abc import Callable, Mapping

from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.codec.bit_allocation import divide_bits, measure_influence
from timm_sbs.codec.quantization import ROUNDED_LIMIT, quantize
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.progress import say
from timm_sbs.predictor.generator import relative_error
from timm_sbs.training.loop import Context
from timm_sbs.training.losses.divergence import Curvature, ExpectedDivergence, curvatures
from timm_sbs.training.phases.second_order import corrected
from timm_sbs.training.rounding.all_weights import MOST_ROUNDED_BITS, entropy_bits, round_to_bits

__all__ = ['ByteBudget', 'quantize_predictor', 'round_original']

RESERVE = 200  # bytes of config.json for figures that are measured later
RATE_MARGIN = 0.004  # by which training aims below the budget, for the last steps cannot follow it exactly
ATTEMPTS = 3  # at the bits, counted with one table for each weight, that a budget has room for
CLOSE = 0.975  # of the bits that there is room for: near enough


class ByteBudget:
    """What a number of bytes for both files leaves for integers."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes - RESERVE

    def excess(self, artifact: Artifact) -> int:
        """Bytes by which both files are too large; below 0 if there is room."""
        return artifact.ledger()['total'] - self.max_bytes

    def wanted_bits(self, artifact: Artifact, bits: float) -> float:
        """Bits that the integers with fixed step sizes may take, where those of this artifact take ``bits``."""
        sizes = artifact.ledger()
        coded = max(1, sizes['predictor'] + sizes['rounded'])
        return max(1., bits * (self.max_bytes - sizes['total'] + coded) / coded * (1 - RATE_MARGIN))


def round_original(
        artifact: Artifact,
        state: Mapping[str, Tensor],
        budget: ByteBudget,
        divergence: ExpectedDivergence | None = None,
        context: Context | None = None,
) -> Artifact:
    """Round the original's weights so that predictions change least for the bytes that there are.

    Where statistics lead to far more changed predictions than squared errors do, the latter are taken.

    Args:
        artifact: With rounded weights, and nothing generated.
        state: The original's state dict.
        budget: Bytes of both files.
        divergence: What errors do, where there are statistics; None: errors count by their squares.

    Returns:
        The artifact with rounded weights and their step sizes, and biases that make up for the rounding.
    """
    context = context or Context()
    if not artifact.rounded:  # of an update that changes none
        return artifact
    totals = {name: state[name].detach() for name in artifact.rounded}
    origin = artifact.origin
    weights = {name: origin.difference(name, weight) for name, weight in totals.items()} if origin else totals

    def rounded_by(divergence: ExpectedDivergence | None) -> Artifact:
        curved = divergence.curvatures if divergence else curvatures(totals, {}, damping=0.)
        if origin:  # a difference is not what outputs grow with
            curved = {name: dataclasses.replace(curvature, coupling=1.) for name, curvature in curved.items()}

        def completed(found: Artifact) -> Artifact:
            return corrected(found, divergence, state) if divergence else found

        return decided_once(lambda: _within(budget, artifact, weights, curved, completed), context.accelerator)

    chosen, by_squares = rounded_by(divergence), functools.cache(lambda: rounded_by(None))
    if divergence and (worse := context.far_worse(chosen, by_squares)):
        chosen = by_squares()
        say(context.accelerator, f'rounding by statistics keeps {worse[0]:.1f} % of the predictions, without them '
                                 f'{worse[1]:.1f} %: these are taken')
    found = chosen.stored_weights()
    error = relative_error(found, state)
    context.results['rounding_error'] = error
    told = f'expected divergence {divergence.total(found):.4f}' if divergence else f'error {error:.4f}'
    say(context.accelerator, f'rounding: {told}')
    return chosen


def _within(
        budget: ByteBudget,
        artifact: Artifact,
        weights: Mapping[str, Tensor],
        curved: Mapping[str, Curvature],
        completed: Callable[[Artifact], Artifact],
) -> Artifact:
    """The artifact with weights rounded to as many bits as the budget has room for, and completed by what follows from
    that."""
    weights = {name: weight.to(curved[name].importance.device) for name, weight in weights.items()}
    most, before = MOST_ROUNDED_BITS * sum(weight.numel() for weight in weights.values()), 0.
    plain = [quantize(weight, artifact.steps[f'rounded.{name}'].to(weight.device), ROUNDED_LIMIT)
             for name, weight in weights.items()]
    fitting: tuple[float, Artifact] | None = None  # of what fits, the one with the most bits
    wanted = min(most, budget.wanted_bits(artifact, sum(entropy_bits(tensor.integers) for tensor in plain)))
    for attempt in range(ATTEMPTS):
        found = round_to_bits(weights, curved, wanted, f'rounding, attempt {attempt + 1} of up to {ATTEMPTS}')
        artifact = completed(dataclasses.replace(artifact, rounded=found.values, steps=found.steps))
        right = min(most, budget.wanted_bits(artifact, found.bits))
        if found.bits <= right and (fitting is None or found.bits > fitting[0]):
            fitting = found.bits, artifact
        if found.bits <= right and (found.bits >= CLOSE * right or found.bits == before):  # nothing is nearer
            break
        before = found.bits
        wanted = right if attempt + 2 < ATTEMPTS else CLOSE * right
    return fitting[1] if fitting else artifact


def quantize_predictor(
        artifact: Artifact,
        bits: float,
        kept_bits: int = 8,
        divergence: ExpectedDivergence | None = None,
        context: Context | None = None,
) -> Artifact:
    """The artifact with a quantized predictor, whose layers get more bits the more their errors matter.

    Args:
        artifact: With a trained predictor.
        bits: Of a weight of the predictor, the mean over its layers.
        divergence: What errors do, where there are statistics; None: errors count by their squares.
    """
    context = context or Context()

    def divide() -> tuple[float, ...]:
        return divide_bits(measure_influence(artifact.generator, divergence.of_changes if divergence else None), bits)

    layer_bits = decided_once(divide, context.accelerator)
    context.results['layer_bits'] = list(layer_bits)
    why = 'divergence' if divergence else 'error'
    say(context.accelerator, f"bits of each layer, by the {why} that rounding it makes: "
                             f"{', '.join(f'{b:.2f}' for b in layer_bits)}")
    return artifact.quantized(QuantizationConfig(layer_bits, kept_bits=kept_bits))
