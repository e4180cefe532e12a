"""The tensors of model.safetensors: which there are, and what they stand for.

Unquantized, every tensor of the predictor, every rounded weight and every stored tensor has its own name, as floats.
Quantized, each of the three is one run of bytes (see :mod:`timm_sbs.codec.coded_tensors`); only stored tensors that are
not floats stay as they are. Orderings are one run of bytes, and frequencies 16-bit integers, in both.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
from timm_sbs.codec.permutations import decode_permutations, encode_permutations, most_coded_bytes
from timm_sbs.codec.quantization import LARGEST_CODE, OUTPUT_SCALE, SMALLEST_CODE, predictor_floats
from timm_sbs.common.config import ArtifactConfig, OrderingConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.tensors import as_float64, with_prefix, without_prefix
from timm_sbs.predictor.base_model import kept_names
from timm_sbs.predictor.encoding import FREQUENCY_LIMIT, FREQUENCY_STEPS
from timm_sbs.predictor.network import Predictor
from timm_sbs.predictor.ordering import Permutations, check_permutations, permutation_shapes
from timm_sbs.predictor.selection import rounded_names
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['Contents', 'Slot', 'slots', 'to_tensors', 'from_tensors', 'encode_ordering']

# How safetensors names torch's dtypes in a file's header.
_DTYPE_CODES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.bool: 'BOOL',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8',
}
_BYTES_PER_INTEGER = 4  # more than any code takes
_OTHER_BYTES = 1 << 20  # more than all headers and step sizes take

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds, decoded. ``predictor``, ``rounded`` and ``kept`` are state dicts.

    Attributes:
        steps: Codes of the step sizes of predictor ('predictor.' and a name) and of rounded weights ('rounded.').
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


def _expected(config: ArtifactConfig, base_state: State) -> tuple[State, State, State]:
    """Rounded weights, stored tensors that are coded where the artifact is quantized, and the other stored ones."""
    rounded = {name: base_state[name] for name in rounded_names(config.rounded, config.generated, base_state)}
    kept = {name: base_state[name] for name in kept_names(base_state, (*config.generated, *rounded))}
    coded = {name: tensor for name, tensor in kept.items() if config.quantization and is_quantized(tensor)}
    return rounded, coded, {name: tensor for name, tensor in kept.items() if name not in coded}


def slots(
        config: ArtifactConfig, specs: Sequence[WeightSpec], predictor: Predictor, base_state: State,
) -> dict[str, Slot]:
    """Every tensor that model.safetensors must hold. ``predictor`` and ``base_state`` may be on the meta device."""
    rounded, coded, others = _expected(config, base_state)
    state, plain = predictor.state_dict() if specs else {}, with_prefix('kept.', others)
    found: dict[str, Slot] = {}
    if config.quantization:
        for part, tensors in (('predictor', state), ('rounded', rounded), ('kept', coded)):
            if tensors:
                found[part] = _coded(tensors.values())
    else:
        code = _DTYPE_CODES[getattr(torch, config.storage_dtype)]
        found = {f'predictor.{name}': Slot(tuple(tensor.shape), 'F32' if name == OUTPUT_SCALE else code)
                 for name, tensor in state.items()}
        plain |= with_prefix('rounded.', rounded)
        if rounded:
            found['rounded_steps'] = Slot((len(rounded),), 'I32')
    found |= {name: Slot(tuple(tensor.shape), _DTYPE_CODES.get(tensor.dtype, 'unknown'))
              for name, tensor in plain.items()}
    if specs:
        found['frequencies'] = Slot(config.generator.frequencies_shape, 'I16')
        found['ordering'] = Slot((most_coded_bytes(_permutation_shapes(config, specs)),), 'U8', coded=True)
    return found


def _coded(tensors: Iterable[Tensor]) -> Slot:
    return Slot((_BYTES_PER_INTEGER * sum(tensor.numel() for tensor in tensors) + _OTHER_BYTES,), 'U8', coded=True)


def _permutation_shapes(config: ArtifactConfig, specs: Sequence[WeightSpec]) -> list[tuple[int, int]]:
    return [shape for spec in specs for shape in permutation_shapes(spec, config.ordering)]


def to_tensors(contents: Contents, config: ArtifactConfig, specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
    """Contents as the tensors of a file.

    Raises:
        ArtifactError: A number is not finite, or not as it will be stored, or a frequency not a multiple of 1/4096.
        OrderingError: An ordering is not a permutation of its layer's kernels.
    """
    parts = {'predictor': contents.predictor if specs else {}, 'rounded': contents.rounded, 'kept': contents.kept}
    for part, state in parts.items():
        check_finite(with_prefix(f'{part}.', state), '')
    steps = {part: without_prefix(f'{part}.', contents.steps) for part in ('predictor', 'rounded')}
    tensors: dict[str, Tensor] = {}
    if config.quantization:
        floats = {name: tensor for name, tensor in contents.kept.items() if is_quantized(tensor)}
        if parts['predictor']:
            tensors['predictor'] = encode_predictor(parts['predictor'], config.quantization, steps['predictor'])
        if contents.rounded:
            tensors['rounded'] = encode_rounded(contents.rounded, steps['rounded'])
        if floats:
            tensors['kept'] = encode_kept(floats, config.quantization, contents.norm_eps)
        tensors.update({f'kept.{name}': tensor for name, tensor in contents.kept.items() if name not in floats})
    else:
        parts['predictor'] = predictor_floats(parts['predictor'], config.storage_dtype)
        for part, state in parts.items():
            tensors.update(with_prefix(f'{part}.', state))
        check_finite(tensors, f' in {config.storage_dtype}')
        if contents.rounded:
            tensors['rounded_steps'] = torch.stack([steps['rounded'][name].int() for name in sorted(contents.rounded)])
    if specs:
        tensors['frequencies'] = _frequency_steps(contents.frequencies)
        tensors['ordering'] = encode_ordering(contents.permutations, config.ordering, specs) \
            if contents.ordering is None else contents.ordering
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _frequency_steps(frequencies: Tensor) -> Tensor:
    steps = as_float64(frequencies) * FREQUENCY_STEPS
    if not torch.equal(steps, steps.round().clamp(-FREQUENCY_LIMIT, FREQUENCY_LIMIT)):
        raise ArtifactError(
            f'The frequencies are not multiples of 1/{FREQUENCY_STEPS} up to {FREQUENCY_LIMIT / FREQUENCY_STEPS:g}, as '
            f'draw_frequencies makes them, so they cannot be stored.')
    return steps.to(torch.int16)


def encode_ordering(
        permutations: Sequence[Permutations], config: OrderingConfig, specs: Sequence[WeightSpec]) -> Tensor:
    """Kernel orderings of all layers as bytes: [n], uint8. Takes a second for a million kernels.

    Raises:
        OrderingError: An ordering is not a permutation of its layer's kernels.
    """
    for layer, spec in zip(permutations, specs):
        check_permutations(layer, spec, config)
    return torch.from_numpy(encode_permutations([rows for layer in permutations for rows in layer]))


def from_tensors(
        tensors: State, config: ArtifactConfig, specs: Sequence[WeightSpec], predictor: Predictor, base_state: State,
) -> Contents:
    """Inverse of :func:`to_tensors`. ``predictor`` and ``base_state`` give names and shapes, and may be on meta.

    Raises:
        ArtifactError: Coded integers are damaged, or a number is not finite.
        OrderingError: The ordering's bytes are damaged.
    """
    kept, rounded = without_prefix('kept.', tensors), without_prefix('rounded.', tensors)
    state = {name: tensor.float() for name, tensor in without_prefix('predictor.', tensors).items()}
    steps: dict[str, Tensor] = {}
    if config.quantization:
        expected_rounded, expected_kept, _ = _expected(config, base_state)
        if specs:
            state, codes = decode_predictor(tensors['predictor'].numpy(), predictor.state_dict())
            steps.update(with_prefix('predictor.', codes))
        if expected_rounded:
            rounded, codes = decode_rounded(tensors['rounded'].numpy(), expected_rounded)
            steps.update(with_prefix('rounded.', codes))
        if expected_kept:
            kept.update(decode_kept(tensors['kept'].numpy(), expected_kept, config.quantization.kept_bits))
    elif rounded:
        stored_codes = tensors['rounded_steps']
        if stored_codes.min() < SMALLEST_CODE or stored_codes.max() > LARGEST_CODE:
            raise ArtifactError('The step sizes of rounded weights are out of range.')
        steps = {f'rounded.{name}': code for name, code in zip(sorted(rounded), stored_codes)}
    for part, found in (('predictor', state), ('rounded', rounded), ('kept', kept)):
        for name, tensor in found.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ArtifactError(f"Tensor '{part}.{name}' holds values that are not finite.")
    if not specs:
        return Contents({OUTPUT_SCALE: torch.ones(0)}, torch.zeros(config.generator.frequencies_shape), (), kept,
                        rounded, steps)
    rows = iter(decode_permutations(tensors['ordering'].numpy(), _permutation_shapes(config, specs)))
    permutations = tuple(tuple(next(rows) for _ in permutation_shapes(spec, config.ordering)) for spec in specs)
    return Contents(state, tensors['frequencies'].float() / FREQUENCY_STEPS, permutations, kept, rounded, steps)
