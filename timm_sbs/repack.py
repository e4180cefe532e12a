"""Rounding an artifact to fewer bits, without data and without training."""
import dataclasses
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Union

from timm_sbs.artifact import Artifact, artifact_sizes, as_stored, load_artifact, save_artifact
from timm_sbs.bits import FEWEST, MOST, divide_bits, measure_influence
from timm_sbs.config import QuantizationConfig
from timm_sbs.errors import ConfigError
from timm_sbs.generate import generate_weights, make_plan, relative_error

__all__ = ['DEFAULT_BITS', 'repack']

DEFAULT_BITS = 7.  # generated weights change by less than a per cent of their squared norm on the networks measured
RESERVE = 64  # bytes for the error, which is known only when everything else is


def repack(
        folder: Union[str, Path],
        output: Union[str, Path],
        bits: Optional[float] = None,
        kept_bits: int = 8,
        max_bytes: Optional[int] = None,
) -> Dict[str, Any]:
    """Write a packed copy of an artifact, packed already or not. A LICENSE goes with it.

    Bits go to the predictor's layers by the error that rounding each of them makes
    (:func:`timm_sbs.bits.divide_bits`).

    Args:
        folder: Of the artifact.
        output: Folder of the copy; may be the same.
        bits: Of a predictor weight, the mean over its layers (default: 7, or the most that fit into ``max_bytes``).
        kept_bits: Of kept tensors.
        max_bytes: Largest size of both files.

    Returns:
        The results that the copy records: ``packing_error`` (squared error of all generated weights over their squared
        norm), and under ``before_packing`` what was measured with the artifact as it was.

    Raises:
        SbsError: The artifact cannot be read, bits are out of range, or even the fewest are too many.
    """
    artifact = load_artifact(folder)
    mean_bits = bits or (MOST if max_bytes else DEFAULT_BITS)
    if not FEWEST <= mean_bits <= MOST:
        raise ConfigError(f'bits is {mean_bits:g}, but must be from {FEWEST:g} to {MOST:g}.')
    plan = make_plan(artifact.config, artifact.specs, artifact.permutations, artifact.frequencies)
    influence = measure_influence(artifact.predictor, plan)
    results: Dict[str, Any] = {'before_packing': dict(artifact.config.results)}

    def packed(mean_bits: float) -> Artifact:
        quantization = QuantizationConfig(divide_bits(influence, mean_bits), kept_bits=kept_bits)
        config = dataclasses.replace(artifact.config, quantization=quantization, results=results)
        return dataclasses.replace(artifact, config=config)

    copy = _most_bits_within(max_bytes - RESERVE, mean_bits, packed) if max_bytes else packed(mean_bits)
    before = generate_weights(artifact.predictor, plan)
    after = generate_weights(as_stored(copy.predictor, copy.config), plan)
    results['packing_error'] = float(f'{relative_error([after[n] for n in before], [*before.values()]):.3g}')
    save_artifact(output, copy)
    return results


def _most_bits_within(max_bytes: int, most: float, packed: Callable[[float], Artifact]) -> Artifact:
    """The artifact with the most bits that fit, to within 1/16.

    Raises:
        ConfigError: Even the fewest bits are too many.
    """
    smallest = artifact_sizes(packed(FEWEST))['total']
    if smallest > max_bytes:
        raise ConfigError(
            f'{max_bytes + RESERVE:,} bytes are too few: with {FEWEST:g} bits a weight both files take '
            f'{smallest + RESERVE:,}. Fit a smaller predictor with train_sbs.py --bytes.')
    low, high = FEWEST, most
    if artifact_sizes(packed(most))['total'] <= max_bytes:
        return packed(most)
    while high - low > 1 / 16:
        middle = (low + high) / 2
        if artifact_sizes(packed(middle))['total'] <= max_bytes:
            low = middle
        else:
            high = middle
    return packed(low)
