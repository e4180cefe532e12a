"""A budget of bytes, divided between the kernel ordering, the width of the predictor and the bits of its weights."""
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from accelerate import Accelerator
from torch import nn

from timm_sbs.config import GRANULARITIES
from timm_sbs.errors import ConfigError
from timm_sbs.ordering import Permutations
from timm_sbs.training.fit import Design, design, find_orderings, predictor_parameters, start_fit
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.settings import ReconstructionSettings

__all__ = ['TRIAL_STEPS', 'divide_budget']

TRIAL_STEPS = 600  # of reconstruction, for each way to divide the budget
TRIAL_BITS = (5., 4., 6.)  # the first is used while orderings are compared


def divide_budget(
        original: nn.Module,
        max_bytes: int,
        choose: Callable[[str, float], Dict[str, Any]],
        granularities: Sequence[str] = GRANULARITIES,
        bits: Sequence[float] = TRIAL_BITS,
        accelerator: Optional[Accelerator] = None,
        say: Callable[[str], None] = print,
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
