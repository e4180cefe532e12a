"""Rounding a predictor to fewer bits, without data and without training."""
from pathlib import Path
from typing import Any

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.codec.bit_allocation import FEWEST, MOST, divide_bits, measure_influence
from timm_sbs.common.config import KEPT_BITS, QuantizationConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import require_range
from timm_sbs.predictor.generator import relative_error

__all__ = ['quantize_artifact']


def quantize_artifact(folder: str | Path, output: str | Path, bits: float = 7., kept_bits: int = 8) -> dict[str, Any]:
    """Write a quantized copy of an artifact, quantized already or not. A LICENSE goes with it.

    Bits go to the predictor's layers by the error that rounding each of them makes
    (:func:`timm_sbs.codec.bit_allocation.divide_bits`).

    Args:
        folder: Of the artifact.
        output: Folder of the copy; may be the same.
        bits: Of a predictor weight, the mean over its layers. With 7, generated weights change by less than a per cent
            of their squared size on the networks measured.
        kept_bits: Of stored tensors.

    Returns:
        The results that the copy records: ``quantization_error`` (relative, of the generated weights:
        :func:`~timm_sbs.predictor.generator.relative_error`), and under ``before_quantization`` what was measured with
        the artifact as it was.

    Raises:
        SbsError: Bits are out of range, or the artifact cannot be read or has no predictor.

    Example:
        >>> results = quantize_artifact('out/resnet18', 'out/small', bits=6)  # doctest: +SKIP
        >>> results['quantization_error']  # doctest: +SKIP
        0.00031
    """
    require_range('bits', bits, FEWEST, MOST)
    require_range('kept_bits', kept_bits, *KEPT_BITS)
    artifact = load_artifact(folder)
    if not artifact.generator.names:
        raise ConfigError(
            f"'{folder}' has no predictor to quantize: all its weights are rounded already. Round the original to "
            f'fewer bytes with: timm-sbs train --bytes.')
    layer_bits = divide_bits(measure_influence(artifact.generator), bits)
    copy = artifact.quantized(QuantizationConfig(layer_bits, kept_bits=kept_bits))
    error = relative_error(copy.as_stored().generator(), artifact.generator())
    results = {'quantization_error': float(f'{error:.3g}'), 'before_quantization': artifact.results}
    copy.with_results(results).save(output)
    return results
