"""A budget of bytes, divided between the kernel ordering, the width of the predictor and the bits of its weights."""
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from accelerate import Accelerator
from torch import nn

from timm_sbs.config import GRANULARITIES
from timm_sbs.errors import ConfigError
from timm_sbs.ordering import Permutations, permutation_shapes
from timm_sbs.packing import most_packed_bytes
from timm_sbs.training.fit import Design, design, predictor_parameters, start_fit
from timm_sbs.training.orderings import find_orderings
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.settings import ReconstructionSettings

__all__ = ['TRIAL_STEPS', 'divide_budget']

TRIAL_STEPS = 600  # of reconstruction, for each way to divide the budget
TRIAL_BITS = (5., 4., 6.)  # the first is used while orderings are compared
# Largest part of the budget for an ordering, if images follow: they train the predictor, but not the ordering. In 80 kB
# a path over each layer of ResNet-20 takes 45 %: the error after 3,000 rounded steps of reconstruction is 0.100, with
# the two axes 0.117; but after 600 steps of distillation they are at 90.71 and 91.18 %.
LARGEST_ORDERING = 0.25


def divide_budget(
        original: nn.Module,
        max_bytes: int,
        choose: Callable[[str, float], Dict[str, Any]],
        granularities: Sequence[str] = GRANULARITIES,
        bits: Sequence[float] = TRIAL_BITS,
        accelerator: Optional[Accelerator] = None,
        say: Callable[[str], None] = print,
        images_follow: bool = False,
) -> Design:
    """Find the ordering and the bits with which a packed artifact of ``max_bytes`` has the smallest error.

    Each candidate gets the widest predictor that fits, and a short reconstruction, with rounding from the first step.
    Orderings are compared at one number of bits, then numbers of bits with the best ordering. The result says what
    was tried. Needs no data.

    Args:
        original: The original model.
        max_bytes: Of both files.
        choose: Arguments of :func:`design`, beside bits and budget, for a granularity and a number of bits.
        granularities: Orderings to compare.
        bits: Bits of a predictor weight to compare.
        accelerator: Devices, processes and precision of the trials.
        say: Told of every trial, in one line.
        images_follow: Whether distillation follows; then orderings that take much of the budget are left out.

    Raises:
        ConfigError: The budget is too small for all of them.
    """
    tried: Dict[Tuple[str, float], Tuple[float, Design]] = {}
    problems: List[str] = []
    orderings: Dict[str, Tuple[Permutations, ...]] = {}

    def attempt(granularity: str, b: float) -> None:
        try:
            candidate = design(original, bits=b, max_bytes=max_bytes, **choose(granularity, b))
        except ConfigError as e:
            problems.append(str(e))
            say(f"  {granularity:<6} {b:g} bits: {e}")
            return
        config, pretrained_cfg, specs = candidate
        ordering_bytes = most_packed_bytes([s for spec in specs for s in permutation_shapes(spec, config.ordering)])
        if images_follow and ordering_bytes > LARGEST_ORDERING * max_bytes:
            problems.append(f"The ordering '{granularity}' would take {ordering_bytes:,} of {max_bytes:,} bytes.")
            say(f'  {granularity:<6} left out: its ordering would take {ordering_bytes:,} bytes, and images train the '
                f'predictor alone')
            return
        if granularity not in orderings:
            orderings[granularity] = find_orderings(original, specs, config.ordering, accelerator)
        fit = start_fit(config, pretrained_cfg, specs, orderings[granularity], seed=0)
        error = reconstruct(
            fit.predictor, fit.plan, original.state_dict(), ReconstructionSettings(steps=TRIAL_STEPS),
            accelerator=accelerator, quantization=config.quantization)['reconstruction_error']
        tried[granularity, b] = error, candidate
        say(f'  {granularity:<6} {b:g} bits: width {config.predictor.width}, '
            f'{predictor_parameters(config, specs):,} parameters, error {error:.4f}')

    say(f'dividing {max_bytes:,} bytes: error of the weights after {TRIAL_STEPS} steps of reconstruction')
    for granularity in granularities:
        attempt(granularity, bits[0])
    if not tried:
        raise ConfigError(problems[-1])
    granularity = min(tried, key=lambda key: tried[key][0])[0]
    for b in bits[1:]:
        attempt(granularity, b)
    best = min(tried, key=lambda key: tried[key][0])
    say(f"chosen: granularity '{best[0]}', {best[1]:g} bits (--granularity and --bits overrule this)")
    return tried[best][1]
