"""A budget of bytes, divided between the kernel ordering, the width of the predictor and the bits of its weights."""
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from torch import nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.codec.permutations import most_coded_bytes
from timm_sbs.common.config import ORDER_OVER
from timm_sbs.common.errors import ConfigError
from timm_sbs.predictor.ordering import Permutations, permutation_shapes
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import Design, design, start_artifact
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.steps.reconstruction import reconstruct

__all__ = ['TRIAL_STEPS', 'divide_budget', 'first_division', 'tried']

Choose = Callable[[str, float | None], dict[str, Any]]

TRIAL_STEPS = 600  # of reconstruction, for each way to divide the budget
TRIAL_BITS = (5., 4., 6.)  # the first is used while orderings are compared
# Largest part of the budget for an ordering, if images follow: they train the predictor, but not the ordering. In 80 kB
# a path over each layer of ResNet-20 takes 45 %: the error after 3,000 rounded steps of reconstruction is 0.100, with
# the two axes 0.117; but after 600 steps of distillation they are at 90.71 and 91.18 %.
LARGEST_ORDERING = 0.25


def _candidate(
        original: nn.Module,
        max_bytes: int,
        choose: Choose,
        order_over: str,
        bits: float,
        images_follow: bool,
) -> Design:
    """The widest predictor that fits, with an ordering and a number of bits.

    Raises:
        ConfigError: None fits, or the ordering takes too much.
    """
    candidate = design(original, bits=bits, max_bytes=max_bytes, **choose(order_over, bits))
    ordering = candidate.generator.ordering
    ordering_bytes = most_coded_bytes([s for spec in candidate.specs for s in permutation_shapes(spec, ordering)])
    if images_follow and ordering_bytes > LARGEST_ORDERING * max_bytes:
        raise ConfigError(f"The ordering '{order_over}' would take {ordering_bytes:,} of {max_bytes:,} bytes, and "
                          f"images train the predictor alone.")
    return candidate


def tried(
        candidate: Design,
        original: nn.Module,
        accelerator: Accelerator | None = None,
        orderings: tuple[Permutations, ...] | None = None,
) -> tuple[Artifact, float]:
    """A design after a short reconstruction, with rounding from the first step, and the error of its generated weights.

    ``orderings`` are its own, if known.
    """
    if orderings is None:
        orderings = find_orderings(original, candidate.specs, candidate.generator.ordering, accelerator)
    trial = start_artifact(candidate, orderings, original, seed=0)
    error = reconstruct(
        trial.generator, original.state_dict(), ReconstructionSettings(steps=TRIAL_STEPS), candidate.storage,
        accelerator=accelerator)
    return trial, error


def first_division(
        original: nn.Module,
        max_bytes: int,
        choose: Choose,
        order_overs: Sequence[str] = ORDER_OVER,
        bits: Sequence[float] = TRIAL_BITS,
        images_follow: bool = False,
) -> tuple[Design, int]:
    """The first division that :func:`divide_budget` would try, and how many it would try. Nothing is trained.

    Arguments are those of :func:`divide_budget`.

    Raises:
        ConfigError: The budget is too small for all of them.
    """
    found, problem = [], None
    for order_over in order_overs:
        try:
            found.append(_candidate(original, max_bytes, choose, order_over, bits[0], images_follow))
        except ConfigError as e:
            problem = e
    if problem and not found:
        raise problem
    return found[0], len(found) + len(bits) - 1


def divide_budget(
        original: nn.Module,
        max_bytes: int,
        choose: Choose,
        order_overs: Sequence[str] = ORDER_OVER,
        bits: Sequence[float] = TRIAL_BITS,
        accelerator: Accelerator | None = None,
        say: Callable[[str], None] = print,
        images_follow: bool = False,
) -> Design:
    """Find the ordering and the bits with which a quantized artifact of ``max_bytes`` has the smallest error.

    Each candidate gets the widest predictor that fits, and a short reconstruction, with rounding from the first step.
    Orderings are compared at one number of bits, then numbers of bits with the best ordering. The result says what
    was tried. Needs no data.

    Args:
        original: The original model.
        max_bytes: Of both files.
        choose: Arguments of :func:`design`, beside bits and budget, for an ordering and a number of bits.
        order_overs: Orderings to compare.
        bits: Bits of a predictor weight to compare.
        accelerator: Devices, processes and precision of the trials.
        say: Told of every trial, in one line.
        images_follow: Whether distillation follows; then orderings that take much of the budget are left out.

    Raises:
        ConfigError: The budget is too small for all of them.
    """
    found: dict[tuple[str, float], tuple[float, Design]] = {}
    problems: list[str] = []
    orderings: dict[str, tuple[Permutations, ...]] = {}

    def attempt(order_over: str, b: float) -> None:
        try:
            candidate = _candidate(original, max_bytes, choose, order_over, b, images_follow)
        except ConfigError as e:
            problems.append(str(e))
            say(f'  {order_over:<7} {b:g} bits left out: {e}')
            return
        if order_over not in orderings:
            orderings[order_over] = find_orderings(
                original, candidate.specs, candidate.generator.ordering, accelerator)
        _, error = tried(candidate, original, accelerator, orderings[order_over])
        found[order_over, b] = error, candidate
        say(f'  {order_over:<7} {b:g} bits: width {candidate.generator.predictor.width}, '
            f'{candidate.num_parameters:,} parameters, error {error:.4f}')

    say(f'dividing {max_bytes:,} bytes: error of the weights after {TRIAL_STEPS} steps of reconstruction')
    for order_over in order_overs:
        attempt(order_over, bits[0])
    if not found:
        raise ConfigError(problems[-1])
    order_over = min(found, key=lambda key: found[key][0])[0]
    for b in bits[1:]:
        attempt(order_over, b)
    best = min(found, key=lambda key: found[key][0])
    say(f'chosen: --order-over {best[0]} --bits {best[1]:g} (flags that are given overrule the search)')
    return found[best][1]
