"""Rounding an artifact to fewer bits, without data and without training."""
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import artifact_ledger, coded_ordering, load_artifact, save_artifact
from timm_sbs.codec.bit_allocation import FEWEST, GRID, MOST, divide_bits, measure_influence
from timm_sbs.common.config import KEPT_BITS, QuantizationConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import require_range
from timm_sbs.predictor.generator import relative_error

__all__ = ['DEFAULT_BITS', 'quantize_artifact', 'ByteBudget']

DEFAULT_BITS = 7.  # generated weights change by less than a per cent of their squared size on the networks measured
RATE_MARGIN = 0.004  # by which training aims below a budget, for the last steps cannot follow it exactly
RESERVE = 64  # bytes for the error, which is known only when everything else is


def quantize_artifact(
        folder: str | Path,
        output: str | Path,
        bits: float | None = None,
        kept_bits: int = 8,
        max_bytes: int | None = None,
) -> dict[str, Any]:
    """Write a quantized copy of an artifact, quantized already or not. A LICENSE goes with it.

    Bits go to the predictor's layers by the error that rounding each of them makes
    (:func:`timm_sbs.codec.bit_allocation.divide_bits`).

    Args:
        folder: Of the artifact.
        output: Folder of the copy; may be the same.
        bits: Of a predictor weight, the mean over its layers (default: 7, or the most that fit into ``max_bytes``).
        kept_bits: Of kept tensors.
        max_bytes: Largest size of both files.

    Returns:
        The results that the copy records: ``quantization_error`` (relative, of the generated weights:
        :func:`~timm_sbs.predictor.generator.relative_error`), and under ``before_quantization`` what was measured with
        the artifact as it was.

    Raises:
        SbsError: Bits are out of range, the artifact cannot be read, or even the fewest bits are too many.

    Example:
        >>> results = quantize_artifact('out/resnet18', 'out/small', max_bytes=2_000_000)  # doctest: +SKIP
        >>> results['quantization_error']  # doctest: +SKIP
        0.00031
    """
    mean_bits = bits if bits is not None else DEFAULT_BITS if max_bytes is None else MOST
    require_range('bits', mean_bits, FEWEST, MOST)
    require_range('kept_bits', kept_bits, *KEPT_BITS)
    if max_bytes is not None:
        require_range('max_bytes', max_bytes, 1, 1 << 62)
    artifact = load_artifact(folder)
    if not artifact.generator.names:
        raise ConfigError(
            f"'{folder}' has no predictor whose bits could be chosen: all its weights are rounded already. Round the "
            f'original to fewer bytes with: timm-sbs train --bytes.')
    influence = measure_influence(artifact.generator)
    ordering = coded_ordering(artifact)
    results: dict[str, Any] = {'before_quantization': dict(artifact.results)}

    def quantized(mean_bits: float) -> Artifact:
        quantization = QuantizationConfig(divide_bits(influence, mean_bits), kept_bits=kept_bits)
        return artifact.quantized(quantization).with_results(results)

    copy = quantized(mean_bits)
    if max_bytes is not None:
        copy = _most_bits_within(max_bytes - RESERVE, mean_bits, quantized, ordering)
    error = relative_error(copy.as_stored().generator(), artifact.generator())
    results['quantization_error'] = float(f'{error:.3g}')
    save_artifact(output, copy.with_results(results), ordering)
    return results


def _most_bits_within(
        max_bytes: int,
        most: float,
        quantized: Callable[[float], Artifact],
        ordering: Tensor,
) -> Artifact:
    """The artifact with the most bits that fit, to within 1/16.

    Raises:
        ConfigError: Even the fewest bits are too many.
    """
    smallest = artifact_ledger(quantized(FEWEST), ordering)['total']
    if smallest > max_bytes:
        raise ConfigError(
            f'{max_bytes + RESERVE:,} bytes are too few: with {FEWEST:g} bits a weight both files take '
            f'{smallest + RESERVE:,}. Fit a smaller one with: timm-sbs train --method generation --bytes.')
    low, high = FEWEST, most
    if artifact_ledger(quantized(most), ordering)['total'] <= max_bytes:
        return quantized(most)
    while high - low > 1 / 16:
        middle = (low + high) / 2
        if artifact_ledger(quantized(middle), ordering)['total'] <= max_bytes:
            low = middle
        else:
            high = middle
    return quantized(low)


class ByteBudget:
    """What a number of bytes leaves for an artifact's integers. The ordering, which training does not change, is coded
    once."""

    def __init__(self, artifact: Artifact, max_bytes: int, ordering: Tensor | None = None) -> None:
        """``ordering`` is what :func:`~timm_sbs.artifact.folder.coded_ordering` returns, if that is known."""
        self.max_bytes = max_bytes
        self._ordering = coded_ordering(artifact) if ordering is None else ordering

    def excess(self, artifact: Artifact) -> int:
        """Bytes that both files of an artifact have too many; below 0 if there is room."""
        return artifact_ledger(artifact, self._ordering)['total'] - self.max_bytes

    def wanted_bits(self, artifact: Artifact, bits: float) -> float:
        """Bits that the integers of fixed steps may take.

        Args:
            artifact: Of this moment.
            bits: That its integers take by the same model.
        """
        ledger = artifact_ledger(artifact, self._ordering)
        coded = max(1, ledger['predictor'] + ledger['rounded'])
        return max(1., bits * (self.max_bytes - ledger['total'] + coded) / coded * (1 - RATE_MARGIN))

    def fitted(self, artifact: Artifact) -> QuantizationConfig:
        """The artifact's quantization, with as many bits less in every layer as the budget asks for.

        If even the fewest bits do not suffice, these are returned.
        """
        quantization = artifact.storage.quantization
        if quantization is None:
            raise ConfigError('Only a quantized artifact has bits that can be lowered to fit into a number of bytes.')
        while quantization.layer_bits:
            excess = self.excess(artifact.quantized(quantization))
            if excess <= 0 or max(quantization.layer_bits) <= FEWEST:
                break
            less = math.ceil(GRID * 8 * excess / artifact.generator.num_parameters) / GRID
            quantization = dataclasses.replace(
                quantization, layer_bits=tuple(max(FEWEST, bits - less) for bits in quantization.layer_bits))
        return quantization
