"""Whether a budget of bytes is better spent on a predictor, on rounding, or on both."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.config import ORDER_OVER
from timm_sbs.common.errors import ConfigError, TargetError
from timm_sbs.predictor.generator import relative_error
from timm_sbs.training.design.budget import TRIAL_BITS, Choose, divide_budget, first_division, tried
from timm_sbs.training.design.sizing import Design, design, start_artifact
from timm_sbs.training.losses.curvature import curvatures
from timm_sbs.training.steps.rounding_slope import plain_bits, round_to_bits
from timm_sbs.training.steps.second_order_rounding import QUICK

__all__ = ['MIXTURE_BITS', 'choose_method', 'with_rule']

MIXTURE_BITS = 3.  # of a weight, rounded or of the predictor, in the trial of a mixture

Say = Callable[[str], None]


def choose_method(
        original: nn.Module,
        max_bytes: int,
        choose: Choose,
        accelerator: Accelerator | None = None,
        say: Say = print,
        images_follow: bool = False,
        order_overs: Sequence[str] = ORDER_OVER,
        bits: Sequence[float] = TRIAL_BITS,
) -> Design:
    """The design of ``max_bytes`` whose weights have the smallest error: rounded, generated, or some of each.

    All weights are rounded, so that errors are small for the bits, and a predictor of the same size has a short
    reconstruction. If that leaves a smaller error in some layers, these are generated beside rounded ones, in a second
    trial. Needs no data.

    Arguments are those of :func:`~timm_sbs.training.design.budget.divide_budget`.

    Raises:
        ConfigError: The budget is too small even for rounding.
    """
    state = {name: tensor.detach().cpu() for name, tensor in original.state_dict().items()}

    rounding = design(original, max_bytes=max_bytes, **with_rule(choose, method='rounding')('layer', bits[0]))
    try:
        generation, _ = first_division(original, max_bytes, choose, order_overs, bits, images_follow)
    except (ConfigError, TargetError) as e:
        say(f'method: rounding, for a predictor cannot be made: {e}')
        return rounding
    say(f'choosing a method for {max_bytes:,} bytes, by the errors of weights that a predictor can generate')
    names = [spec.name for spec in generation.specs]
    errors = {'rounding': _errors(_rounded(start_artifact(rounding, (), original, seed=0)), state, names),
              'generation': _errors(tried(generation, original, accelerator)[0], state, names)}
    designs = {'rounding': rounding, 'generation': generation}
    better = [name for name in names if errors['generation'][name] < errors['rounding'][name]]
    if 0 < len(better) < len(names):
        order_over = generation.generator.ordering.order_over
        try:
            mixed = with_rule(choose, method='rounding', generate=tuple(better))
            mixture = design(original, bits=MIXTURE_BITS, max_bytes=max_bytes, **mixed(order_over, MIXTURE_BITS))
        except ConfigError as e:
            say(f'  mixture left out: {e}')
        else:
            designs['mixture'] = mixture
            errors['mixture'] = _errors(tried(mixture, original, accelerator)[0], state, names)
    totals = {method: sum(found[name] * state[name].numel() for name in names) for method, found in errors.items()}
    for method, total in totals.items():
        say(f'  {method:<10} error {total / sum(state[name].numel() for name in names):.4f}')
    best = min(totals, key=totals.__getitem__)
    told = f' (by itself, {len(better)} of {len(names)} weights would be better generated)' if better else ''
    say(f'chosen: {best}{told}; --method, --generate and --round overrule this')
    if best == 'generation':
        return divide_budget(original, max_bytes, choose, order_overs, bits, accelerator, say, images_follow)
    return designs[best]


def with_rule(choose: Choose, **changes: Any) -> Choose:
    """The same choice of a design's arguments, with other fields of the rule that selects weights."""
    def changed(order_over: str, bits: float | None) -> dict[str, Any]:
        arguments = choose(order_over, bits)
        return {**arguments, 'rule': dataclasses.replace(arguments['rule'], **changes)}

    return changed


@torch.no_grad()
def _rounded(artifact: Artifact) -> Artifact:
    """Rounded weights in as many bits as to the nearest, but with a smaller error, unless all of them are zeros."""
    weights = artifact.rounded
    bits = plain_bits(weights, artifact.steps)
    try:
        found = round_to_bits(weights, curvatures(weights, {}, 0.), bits, quiet=True, thoroughness=(QUICK,))
    except ConfigError:
        return artifact
    return dataclasses.replace(artifact, rounded=found.values, steps=found.steps)


@torch.no_grad()
def _errors(artifact: Artifact, state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """Relative error of each of some weights, as the artifact stores them."""
    stored = artifact.stored_weights()
    return {name: relative_error({name: stored[name]}, state) for name in names}
