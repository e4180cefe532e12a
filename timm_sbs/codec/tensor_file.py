"""The tensors of model.safetensors: which there are, and what they stand for.

Unquantized, every tensor of predictor and kept tensors stands under its own name, as floats. Quantized, all of the
predictor is one run of bytes and all kept tensors are another (see :mod:`timm_sbs.codec.quantization`); only kept
tensors that are no floats stay as they are. Orderings are one run of bytes, and frequencies 16-bit integers, in both.
"""
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_sbs.codec.entropy import decode_integers, encode_integers
from timm_sbs.codec.permutations import (
    decode_permutations,
    encode_permutations,
    most_coded_bytes,
)
from timm_sbs.codec.quantization import (
    QuantizedTensor,
    dequantize,
    is_quantized,
    kept_kind,
    layer_names,
    quantize_kept,
    quantize_predictor,
)
from timm_sbs.common.config import ArtifactConfig, OrderingConfig, QuantizationConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.float64 import as_float64
from timm_sbs.predictor.base_model import kept_names
from timm_sbs.predictor.encoding import FREQUENCY_LIMIT, FREQUENCY_STEPS
from timm_sbs.predictor.network import Predictor
from timm_sbs.predictor.ordering import (
    Permutations,
    check_permutations,
    permutation_shapes,
)
from timm_sbs.predictor.tokens import WeightSpec

__all__ = [
    'Contents', 'Slot', 'slots', 'to_tensors', 'from_tensors', 'encode_ordering', 'with_prefix', 'without_prefix',
]

# How safetensors names torch's dtypes in a file's header.
_DTYPE_CODES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.bool: 'BOOL',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8',
}
_SCALE = 'output_scale'  # of the predictor: a number that is never trained, stored exactly
_SCALE_BYTES = 4
_BYTES_PER_INTEGER = 4  # more than any code takes
_TABLES = 1 << 20  # more than all tables take


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds, decoded. ``predictor`` and ``kept`` are state dicts.

    ``ordering``: the permutations as :func:`encode_ordering` codes them, if that was done before.
    """
    predictor: dict[str, Tensor]
    frequencies: Tensor
    permutations: tuple[Permutations, ...]
    kept: dict[str, Tensor]
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


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names have the prefix, without it."""
    return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def slots(
        config: ArtifactConfig,
        specs: Sequence[WeightSpec],
        predictor: Predictor,
        base_state: Mapping[str, Tensor],
) -> dict[str, Slot]:
    """Every tensor that model.safetensors must hold. ``predictor`` and ``base_state`` may be on the meta device."""
    kept = {name: base_state[name] for name in kept_names(base_state, config.generated)}
    state = predictor.state_dict()
    if config.quantization:
        found = {'predictor': _coded(state.values())}
        rounded = [tensor for tensor in kept.values() if is_quantized(tensor)]
        if rounded:
            found['kept'] = _coded(rounded)
        kept = {name: tensor for name, tensor in kept.items() if not is_quantized(tensor)}
    else:
        code = _DTYPE_CODES[getattr(torch, config.storage_dtype)]
        found = {f'predictor.{name}': Slot(tuple(tensor.shape), code) for name, tensor in state.items()}
    for name, tensor in kept.items():
        found[f'kept.{name}'] = Slot(tuple(tensor.shape), _DTYPE_CODES.get(tensor.dtype, 'unknown'))
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
    _check_finite({**with_prefix('predictor.', contents.predictor), **with_prefix('kept.', contents.kept)}, '')
    if config.quantization:
        tensors = {'predictor': _encode_predictor(contents.predictor, config.quantization)}
        rounded = {name: tensor for name, tensor in contents.kept.items() if is_quantized(tensor)}
        if rounded:
            tensors['kept'] = _encode_kept(rounded, config.quantization)
        tensors.update(with_prefix('kept.', {k: v for k, v in contents.kept.items() if not is_quantized(v)}))
    else:
        dtype = getattr(torch, config.storage_dtype)
        tensors = with_prefix('predictor.', {name: tensor.to(dtype) for name, tensor in contents.predictor.items()})
        tensors.update(with_prefix('kept.', contents.kept))
        _check_finite(tensors, f" in {config.storage_dtype}")
    steps = as_float64(contents.frequencies) * FREQUENCY_STEPS
    if not torch.equal(steps, steps.round().clamp(-FREQUENCY_LIMIT, FREQUENCY_LIMIT)):
        raise ArtifactError(
            f'The frequencies are not multiples of 1/{FREQUENCY_STEPS} up to {FREQUENCY_LIMIT / FREQUENCY_STEPS:g}, as '
            f'draw_frequencies makes them, so they cannot be stored.')
    tensors['frequencies'] = steps.to(torch.int16)
    if contents.ordering is None:
        tensors['ordering'] = encode_ordering(contents.permutations, config.ordering, specs)
    else:
        tensors['ordering'] = contents.ordering
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


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


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(
                f"Tensor '{name}' holds values that are not finite{where}, so the artifact was not written. "
                f'Did training diverge?' + (' Or does the way of storing it overflow?' if where else ''))


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
    kept = without_prefix('kept.', tensors)
    if config.quantization:
        state = _decode_predictor(tensors['predictor'].numpy(), predictor.state_dict())
        if 'kept' in tensors:
            expected = {
                name: base_state[name] for name in kept_names(base_state, config.generated)
                if is_quantized(base_state[name])}
            kept.update(_decode_kept(tensors['kept'].numpy(), expected))
    else:
        state = {name: tensor.float() for name, tensor in without_prefix('predictor.', tensors).items()}
    for name, tensor in {**with_prefix('predictor.', state), **with_prefix('kept.', kept)}.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(f"Tensor '{name}' holds values that are not finite.")
    rows = decode_permutations(tensors['ordering'].numpy(), _permutation_shapes(config, specs))
    counts = [len(permutation_shapes(spec, config.ordering)) for spec in specs]
    ends = np.cumsum(counts)
    return Contents(
        predictor=state,
        frequencies=tensors['frequencies'].float() / FREQUENCY_STEPS,
        permutations=tuple(tuple(rows[end - count:end]) for count, end in zip(counts, ends)),
        kept=kept,
    )


def _pooled(parts: Sequence[Tensor]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(part.reshape(-1).cpu().numpy().astype(np.int64) for part in parts)])


def _split(pooled: NDArray[np.int64], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in shapes]
    return [part.reshape(shape) for part, shape in zip(torch.from_numpy(pooled).split(sizes), shapes)]


def _encode_predictor(state: Mapping[str, Tensor], quantization: QuantizationConfig) -> Tensor:
    """The output scale, then the weights of each layer, all biases, and all steps."""
    integers = quantize_predictor(state, quantization)
    _check_finite({f'predictor.{name}': dequantize(part) for name, part in integers.items()}, ' in integers')
    names = layer_names(state)
    coded = encode_integers([
        *(_pooled([integers[f'{name}.weight'].integers]) for name in names),
        _pooled([integers[f'{name}.bias'].integers for name in names]),
        _pooled([integers[f'{name}.{part}'].codes for name in names for part in ('weight', 'bias')])])
    scale = state[_SCALE].detach().cpu().numpy().astype('<f4').reshape(1).view(np.uint8)
    return torch.from_numpy(np.concatenate([scale, coded]))


def _decode_predictor(data: NDArray[np.uint8], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = layer_names(expected)
    weights = [tuple(expected[f'{name}.weight'].shape) for name in names]
    biases = [tuple(expected[f'{name}.bias'].shape) for name in names]
    codes = [shape for rows, _ in weights for shape in ((rows, 1), ())]
    if len(data) < _SCALE_BYTES:
        raise ArtifactError('The coded predictor is damaged: it is too short.')
    *values, bias_values, steps = decode_integers(data[_SCALE_BYTES:], [
        *map(math.prod, weights), sum(map(math.prod, biases)), sum(map(math.prod, codes))])
    step_codes = _split(steps, codes)
    state = {}
    for index, (name, bias) in enumerate(zip(names, _split(bias_values, biases))):
        weight = torch.from_numpy(values[index]).reshape(weights[index])
        state[f'{name}.weight'] = dequantize(QuantizedTensor(weight, step_codes[2 * index]))
        state[f'{name}.bias'] = dequantize(QuantizedTensor(bias, step_codes[2 * index + 1]))
    state[_SCALE] = torch.tensor(data[:_SCALE_BYTES].copy().view('<f4')[0].astype(np.float32))
    return state


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of kept tensors by how they are rounded."""
    kinds: dict[str, list[str]] = {'rows': [], 'whole': [], 'logarithm': []}
    for name, tensor in tensors.items():
        kinds[kept_kind(name, tensor)].append(name)
    return kinds


def _code_shape(kind: str, tensor: Tensor) -> tuple[int, ...]:
    if kind == 'logarithm':
        return tuple(tensor.shape)
    return (tensor.shape[0], *(1,) * (tensor.dim() - 1)) if kind == 'rows' else ()


def _encode_kept(kept: Mapping[str, Tensor], quantization: QuantizationConfig) -> Tensor:
    """For each way of rounding: all integers, then all steps."""
    arrays = []
    for kind, names in _kinds(kept).items():
        integers = [quantize_kept(name, kept[name], quantization) for name in names]
        read = {name: dequantize(part).to(kept[name].dtype) for name, part in zip(names, integers)}
        _check_finite(with_prefix('kept.', read), ' in integers')
        if kind != 'logarithm':
            arrays.append(_pooled([part.integers for part in integers]))
        arrays.append(_pooled([part.codes for part in integers]))
    return torch.from_numpy(encode_integers(arrays))


def _decode_kept(data: NDArray[np.uint8], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    shapes, kinds = [], _kinds(expected)
    for kind, names in kinds.items():
        if kind != 'logarithm':
            shapes.append([tuple(expected[name].shape) for name in names])
        shapes.append([_code_shape(kind, expected[name]) for name in names])
    arrays = iter(decode_integers(data, [sum(map(math.prod, group)) for group in shapes]))
    groups = iter(shapes)
    kept = {}
    for kind, names in kinds.items():
        values = [None] * len(names) if kind == 'logarithm' else _split(next(arrays), next(groups))
        codes = _split(next(arrays), next(groups))
        for name, value, code in zip(names, values, codes):
            kept[name] = dequantize(QuantizedTensor(value, code)).to(expected[name].dtype)
    return {name: kept[name] for name in expected}
