"""Whether an artifact still does what its original does, from what was measured when it was made."""
from collections.abc import Mapping
from typing import Any

from timm_sbs.common.results import earlier, number, text

__all__ = ['lost_function']

AGREEMENT = 80.  # %: with less, a network has lost its function
# Errors of weights, squared and relative, with which ResNet-20 agrees with its original on about so many test images:
# after reconstruction 0.11 (and 0.08 on 84 %), after distillation and a quantization of 0.08, after rounding 0.06.
GENERATED, ROUNDED = 0.1, 0.06

Results = Mapping[str, Any]


def lost_function(results: Results) -> str | None:
    """A warning with a way out, if a network has lost its function; None if it has not, or nobody can know.

    What was measured on images decides. Without any, it is the errors of the weights, which add up where an artifact
    was quantized after it had been fitted.
    """
    agreement = _agreement(results)
    if agreement is not None:
        if agreement >= AGREEMENT:
            return None
        return (f"warning: only {agreement:.1f} % of its predictions are the original's. Allow more bytes, bits or "
                f'parameters, or fit it with more images and optimization steps.')
    if _share(results) <= 1:
        return None
    return ('warning: the errors of its weights are so large that it has probably lost a fifth of the predictions or '
            'more. Allow more bytes, bits or parameters, or fit it on images (timm-sbs train --images, --data-dir or '
            '--data-free), and measure its accuracy with timm-sbs eval.')


def _agreement(results: Results) -> float | None:
    measured = number(results, 'agreement', 100)
    return number(results, 'holdout_agreement', 100) if measured is None else measured


def _share(results: Results) -> float:
    """Errors of the weights, as parts of those with which the function is lost."""
    before, quantization = earlier(results, 'before_quantization'), _error(results, 'quantization') / GENERATED
    if before:
        return quantization + (_share(before) if _agreement(before) is None else 0.)
    if text(results, 'data_free') or text(results, 'unlabelled') or any(
            number(results, name) for name in ('statistics_images', 'distillation_steps')):
        return 0.  # these bring errors to where predictions do not change
    return max(quantization, _error(results, 'reconstruction') / GENERATED, _error(results, 'rounding') / ROUNDED)


def _error(results: Results, phase: str) -> float:
    return number(results, f'{phase}_error') or 0.
