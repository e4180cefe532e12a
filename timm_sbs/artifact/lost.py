"""Whether an artifact still does what its original does, from what was measured when it was made."""
from timm_sbs.common.results import Results

__all__ = ['lost_function']

AGREEMENT = 80.  # %: with less, a network has lost its function
# Errors of weights, squared and relative, with which ResNet-20 agrees with its original on about so many test images:
# after reconstruction 0.11 (and 0.08 on 84 %), after distillation and a quantization of 0.08, after rounding 0.06.
GENERATED, ROUNDED = 0.1, 0.06


def lost_function(results: Results) -> str | None:
    """A warning with a way out, if a network has lost its function; None if it has not, or nobody can know.

    What was measured on images decides. Without any, it is the errors of the weights, which add up where an artifact
    was quantized after it had been fitted.
    """
    agreement = results.holdout_agreement if results.agreement is None else results.agreement
    if agreement is not None:
        if agreement >= AGREEMENT:
            return None
        return (f"warning: only {agreement:.1f} % of its predictions are the original's. Allow more bytes, bits or "
                f'parameters, or give it more images and steps.')
    if _share(results) <= 1:
        return None
    return ("warning: its weights have such an error that it is likely to have lost a fifth of the original's "
            "predictions, or most. Allow more bytes, bits or parameters, or fit it on images (timm-sbs train "
            '--data-dir, --data-free); timm-sbs eval tells its accuracy.')


def _share(results: Results) -> float:
    """Errors of the weights, as parts of those with which the function is lost."""
    before, quantization = results.before_quantization, (results.quantization_error or 0.) / GENERATED
    if before:
        return quantization + (_share(before) if before.agreement is before.holdout_agreement is None else 0.)
    if results.statistics_images or results.data_free or results.distillation_steps or results.unlabelled:
        return 0.  # these bring errors to where predictions do not change
    error = results.reconstruction_error or 0.
    return max(quantization, error / GENERATED, (results.rounding_error or 0.) / ROUNDED)
