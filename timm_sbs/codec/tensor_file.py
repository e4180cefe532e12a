"""The tensors of model.safetensors: which there are, and what they stand for.

Unquantized, every tensor of the predictor, every rounded weight and every kept tensor stands under its own name, as
floats. Quantized, each of the three is one run of bytes (see :mod:`timm_sbs.codec.coded_tensors`); only kept tensors
that are no floats stay as they are. Orderings are one run of bytes, and frequencies 16-bit integers, in both.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from timm_sbs.codec.coded_tensors import (
    check_finite,
    decode_kept,
    decode_predictor,
    decode_rounded,
    encode_kept,
    encode_predictor,
    encode_rounded,
)
from timm_sbs.codec.kept import NormEps, is_quantized
from timm_sbs.codec.permutations import (
    decode_permutations,
    encode_permutations,
    most_coded_bytes,
)
from timm_sbs.codec.quantization import LARGEST_CODE, OUTPUT_SCALE, SMALLEST_CODE, predictor_floats
from timm_sbs.common.config import ArtifactConfig, OrderingConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.float64 import as_float64
from timm_sbs.common.prefixes import with_prefix, without_prefix
from timm_sbs.predictor.base_model import kept_names
from timm_sbs.predictor.encoding import FREQUENCY_LIMIT, FREQUENCY_STEPS
from timm_sbs.predictor.network import Predictor
from timm_sbs.predictor.ordering import (
    Permutations,
    check_permutations,
    permutation_shapes,
)
from timm_sbs.predictor.selection import rounded_names
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['Contents', 'Slot', 'slots', 'to_tensors', 'from_tensors', 'encode_ordering']

# How safetensors names torch's dtypes in a file's header.
_DTYPE_CODES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.bool: 'BOOL',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8',
}
_BYTES_PER_INTEGER = 4  # more than any code takes
_TABLES = 1 << 20  # more than all tables take


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds, decoded. ``predictor``, ``rounded`` and ``kept`` are state dicts.

    Attributes:
        steps: Codes of the steps of predictor weights ('predictor.' and a name) and of rounded weights ('rounded.').
        norm_eps: Of the base model's BatchNorms, see :func:`~timm_sbs.codec.kept.quantize_kept`. No file holds it.
        ordering: The permutations as :func:`encode_ordering` codes them, if that was done before.
    """
    predictor: dict[str, Tensor]
    frequencies: Tensor
    permutations: tuple[Permutations, ...]
    kept: dict[str, Tensor]
    rounded: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)
    norm_eps: NormEps = field(default_factory=dict)
    ordering: Tensor | None = None


@dataclass(frozen=True)
class Slot:
    """What a tensor of the file must be. With ``coded``, [n] bytes for any n up to ``shape[0]``."""
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it
    coded: bool = False

    def holds(self, shape: Sequence[int], dtype: str) -> bool:
        if self.coded:
            return dtype == self.dtype and len(shape) == 1 and shape[0] <= self.shape[0]
        return (tuple(shape), dtype) == (self.shape, self.dtype)

    def __str__(self) -> str:
        return f'{self.dtype} of shape [{"up to " if self.coded else ""}{", ".join(map(str, self.shape))}]'


def slots(
        config: ArtifactConfig,
        specs: Sequence[WeightSpec],
        predictor: Predictor,
        base_state: Mapping[str, Tensor],
) -> dict[str, Slot]:
    """Every tensor that model.safetensors must hold. ``predictor`` and ``base_state`` may be on the meta device."""
    rounded = {name: base_state[name] for name in rounded_names(config.rounded, config.generated, base_state)}
    kept = {name: base_state[name] for name in kept_names(base_state, (*config.generated, *rounded))}
    state = predictor.state_dict() if specs else {}
    found: dict[str, Slot] = {}
    if config.quantization:
        floats = [tensor for tensor in kept.values() if is_quantized(tensor)]
        for part, numbers in (('predictor', [*state.values()]), ('rounded', [*rounded.values()]), ('kept', floats)):
            if numbers:
                found[part] = _coded(numbers)
        kept = {name: tensor for name, tensor in kept.items() if not is_quantized(tensor)}
    else:
        code = _DTYPE_CODES[getattr(torch, config.storage_dtype)]
        found = {f'predictor.{name}': Slot(tuple(tensor.shape), 'F32' if name == OUTPUT_SCALE else code)
                 for name, tensor in state.items()}
    for part, tensors in (('kept', kept), ('rounded', {} if config.quantization else rounded)):
        for name, tensor in tensors.items():
            found[f'{part}.{name}'] = Slot(tuple(tensor.shape), _DTYPE_CODES.get(tensor.dtype, 'unknown'))
    if rounded and not config.quantization:
        found['rounded_steps'] = Slot((len(rounded),), 'I32')
    if specs:
        found['frequencies'] = Slot(config.generator.frequencies_shape, 'I16')
        found['ordering'] = Slot((most_coded_bytes(_permutation_shapes(config, specs)),), 'U8', coded=True)
    return found


def _coded(tensors: Iterable[Tensor]) -> Slot:
    return Slot((_BYTES_PER_INTEGER * sum(tensor.numel() for tensor in tensors) + _TABLES,), 'U8', coded=True)


def _permutation_shapes(config: ArtifactConfig, specs: Sequence[WeightSpec]) -> list[tuple[int, int]]:
    return [shape for spec in specs for shape in permutation_shapes(spec, config.ordering)]


def to_tensors(contents: Contents, config: ArtifactConfig, specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
    """Contents as the tensors of a file.

    Raises:
        ArtifactError: A number is not finite, or not as it will be stored, or a frequency no multiple of 1/4096.
        OrderingError: An ordering is not a permutation of its layer's kernels.
    """
    predictor = contents.predictor if specs else {}
    parts = {'predictor': predictor, 'rounded': contents.rounded, 'kept': contents.kept}
    for part, state in parts.items():
        check_finite(with_prefix(f'{part}.', state), '')
    tensors: dict[str, Tensor] = {}
    if config.quantization:
        kept = contents.kept
        if predictor:
            tensors['predictor'] = encode_predictor(
                predictor, config.quantization, without_prefix('predictor.', contents.steps))
        if contents.rounded:
            tensors['rounded'] = encode_rounded(contents.rounded, without_prefix('rounded.', contents.steps))
        if floats := {name: tensor for name, tensor in kept.items() if is_quantized(tensor)}:
            tensors['kept'] = encode_kept(floats, config.quantization, contents.norm_eps)
        tensors.update(with_prefix('kept.', {k: v for k, v in kept.items() if not is_quantized(v)}))
    else:
        parts['predictor'] = predictor_floats(predictor, config.storage_dtype)
        for part, state in parts.items():
            tensors.update(with_prefix(f'{part}.', state))
        check_finite(tensors, f" in {config.storage_dtype}")
        if contents.rounded:
            codes = without_prefix('rounded.', contents.steps)
            tensors['rounded_steps'] = torch.stack([codes[name].int() for name in sorted(contents.rounded)])
    if specs:
        tensors['frequencies'] = _frequency_steps(contents.frequencies)
        ordering = contents.ordering
        tensors['ordering'] = encode_ordering(contents.permutations, config.ordering, specs) \
            if ordering is None else ordering
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _frequency_steps(frequencies: Tensor) -> Tensor:
    steps = as_float64(frequencies) * FREQUENCY_STEPS
    if not torch.equal(steps, steps.round().clamp(-FREQUENCY_LIMIT, FREQUENCY_LIMIT)):
        raise ArtifactError(
            f'The frequencies are not multiples of 1/{FREQUENCY_STEPS} up to {FREQUENCY_LIMIT / FREQUENCY_STEPS:g}, as '
            f'draw_frequencies makes them, so they cannot be stored.')
    return steps.to(torch.int16)


def encode_ordering(
        permutations: Sequence[Permutations],
        config: OrderingConfig,
        specs: Sequence[WeightSpec],
) -> Tensor:
    """Kernel orderings of all layers as bytes: [n], uint8. Takes a second for a million kernels.

    Raises:
        OrderingError: An ordering is not a permutation of its layer's kernels.
    """
    for layer, spec in zip(permutations, specs):
        check_permutations(layer, spec, config)
    return torch.from_numpy(encode_permutations([rows for layer in permutations for rows in layer]))


def from_tensors(
        tensors: Mapping[str, Tensor],
        config: ArtifactConfig,
        specs: Sequence[WeightSpec],
        predictor: Predictor,
        base_state: Mapping[str, Tensor],
) -> Contents:
    """Inverse of :func:`to_tensors`. ``predictor`` and ``base_state`` give names and shapes, and may be on meta.

    Raises:
        ArtifactError: Coded integers are damaged, or a number is not finite.
        OrderingError: What should be an ordering is none.
    """
    kept, rounded = without_prefix('kept.', tensors), without_prefix('rounded.', tensors)
    steps: dict[str, Tensor] = {}
    if config.quantization:
        state: dict[str, Tensor] = {}
        if specs:
            state, codes = decode_predictor(tensors['predictor'].numpy(), predictor.state_dict())
            steps.update(with_prefix('predictor.', codes))
        if 'rounded' in tensors:
            names = rounded_names(config.rounded, config.generated, base_state)
            rounded, codes = decode_rounded(tensors['rounded'].numpy(), {name: base_state[name] for name in names})
            steps.update(with_prefix('rounded.', codes))
        if 'kept' in tensors:
            stored = (*config.generated, *rounded)
            expected = {
                name: base_state[name] for name in kept_names(base_state, stored) if is_quantized(base_state[name])}
            kept.update(decode_kept(tensors['kept'].numpy(), expected, config.quantization.kept_bits))
    else:
        state = {name: tensor.float() for name, tensor in without_prefix('predictor.', tensors).items()}
        if rounded:
            stored_codes = tensors['rounded_steps']
            if stored_codes.min() < SMALLEST_CODE or stored_codes.max() > LARGEST_CODE:
                raise ArtifactError('The steps of rounded weights are out of range.')
            steps = {f'rounded.{name}': code for name, code in zip(sorted(rounded), stored_codes)}
    for part, found in (('predictor', state), ('rounded', rounded), ('kept', kept)):
        for name, tensor in found.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ArtifactError(f"Tensor '{part}.{name}' holds values that are not finite.")
    frequencies = torch.zeros(config.generator.frequencies_shape)
    permutations: tuple[Permutations, ...] = ()
    if specs:
        frequencies = tensors['frequencies'].float() / FREQUENCY_STEPS
        permutations = _permutations_of(tensors['ordering'], config, specs)
    else:
        state = {OUTPUT_SCALE: torch.ones(0)}
    return Contents(state, frequencies, permutations, kept, rounded, steps)


def _permutations_of(
        coded: Tensor, config: ArtifactConfig, specs: Sequence[WeightSpec]) -> tuple[Permutations, ...]:
    rows = decode_permutations(coded.numpy(), _permutation_shapes(config, specs))
    counts = [len(permutation_shapes(spec, config.ordering)) for spec in specs]
    ends = np.cumsum(counts)
    return tuple(tuple(rows[end - count:end]) for count, end in zip(counts, ends))
