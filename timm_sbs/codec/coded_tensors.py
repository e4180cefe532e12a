"""Quantized tensors as bytes: those of a predictor, rounded weights, and kept tensors."""
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_sbs.codec.entropy import decode_integers, encode_integers
from timm_sbs.codec.kept import NormEps, dequantize_kept, kept_kind, quantize_kept
from timm_sbs.codec.matrices import decode_matrices, encode_matrices
from timm_sbs.codec.quantization import (
    OUTPUT_SCALE,
    ROUNDED_LIMIT,
    QuantizedTensor,
    StepCodes,
    dequantize,
    layer_names,
    quantize,
    quantize_predictor,
)
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.prefixes import with_prefix

__all__ = [
    'check_finite', 'encode_predictor', 'decode_predictor', 'encode_rounded', 'decode_rounded', 'encode_kept',
    'decode_kept',
]

_SCALE = np.dtype('<f4')  # of each of a predictor's output scales
_LENGTH = np.dtype('<u4')  # of the first of two runs of bytes
_DAMAGED = 'The coded {} is damaged: it is too short.'


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises ArtifactError where a number is not finite; ``where`` ends the sentence's first half."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(
                f"Tensor '{name}' holds values that are not finite{where}, so the artifact was not written. "
                f'Did training diverge?' + (' Or does the way of storing it overflow?' if where else ''))


def _pooled(parts: Sequence[Tensor]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(part.reshape(-1).cpu().numpy().astype(np.int64) for part in parts)])


def _split(pooled: NDArray[np.int64], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in shapes]
    return [part.reshape(shape) for part, shape in zip(torch.from_numpy(pooled).split(sizes), shapes)]


def _matrix_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """A weight as filters, channels and values of a kernel; numbers of fewer dimensions as one filter."""
    return (shape[0], shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, math.prod(shape), 1)


def _joined(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([np.array([len(first)], dtype=_LENGTH).view(np.uint8), first, second])


def _parted(data: NDArray[np.uint8], what: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Inverse of :func:`_joined`."""
    start = _LENGTH.itemsize
    length = int(data[:start].copy().view(_LENGTH)[0]) if len(data) >= start else len(data)
    if start + length > len(data):
        raise ArtifactError(_DAMAGED.format(what))
    return data[start:start + length], data[start + length:]


def _encode_weights(integers: Sequence[Tensor]) -> NDArray[np.uint8]:
    return encode_matrices([part.cpu().numpy().reshape(_matrix_shape(part.shape)) for part in integers])


def _decode_weights(data: NDArray[np.uint8], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    matrices = decode_matrices(data, [_matrix_shape(shape) for shape in shapes])
    return [torch.from_numpy(matrix).reshape(tuple(shape)) for matrix, shape in zip(matrices, shapes)]


def encode_rounded(rounded: Mapping[str, Tensor], steps: StepCodes) -> Tensor:
    """Rounded weights as bytes: their steps, and all integers."""
    integers = {name: quantize(tensor, steps[name], ROUNDED_LIMIT) for name, tensor in rounded.items()}
    check_finite({f'rounded.{name}': dequantize(part) for name, part in integers.items()}, ' in integers')
    codes = encode_integers([_pooled([part.codes for part in integers.values()])])
    weights = _encode_weights([part.integers for part in integers.values()])
    return torch.from_numpy(_joined(codes, weights))


def decode_rounded(
        data: NDArray[np.uint8], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inverse of :func:`encode_rounded`, given tensors of the same shapes: the weights, and codes of their steps."""
    coded_steps, coded_weights = _parted(data, 'rounded weights')
    pooled = decode_integers(coded_steps, [len(expected)])[0]
    codes = {name: code.int() for name, code in zip(expected, _split(pooled, [()] * len(expected)))}
    values = _decode_weights(coded_weights, [tuple(tensor.shape) for tensor in expected.values()])
    return {name: dequantize(QuantizedTensor(value, codes[name])).to(expected[name].dtype)
            for name, value in zip(expected, values)}, codes


def encode_predictor(state: Mapping[str, Tensor], quantization: QuantizationConfig, steps: StepCodes) -> Tensor:
    """A predictor as bytes: its output scales, all biases and steps, and the weights of each layer."""
    integers = quantize_predictor(state, quantization, steps)
    check_finite({f'predictor.{name}': dequantize(part) for name, part in integers.items()}, ' in integers')
    names = layer_names(state)
    numbers = encode_integers([
        _pooled([integers[f'{name}.bias'].integers for name in names]),
        _pooled([integers[f'{name}.{part}'].codes for name in names for part in ('weight', 'bias')])])
    scales = state[OUTPUT_SCALE].detach().cpu().numpy().astype(_SCALE).view(np.uint8)
    weights = _encode_weights([integers[f'{name}.weight'].integers for name in names])
    return torch.from_numpy(_joined(np.concatenate([scales, numbers]), weights))


def decode_predictor(
        data: NDArray[np.uint8], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inverse of :func:`encode_predictor`, given a state dict of the same shapes: the state dict, and its weights' step
    codes."""
    names = layer_names(expected)
    weights = [tuple(expected[f'{name}.weight'].shape) for name in names]
    biases = [tuple(expected[f'{name}.bias'].shape) for name in names]
    codes = [shape for rows, _ in weights for shape in ((rows, 1), ())]
    first, coded_weights = _parted(data, 'predictor')
    size = _SCALE.itemsize * len(expected[OUTPUT_SCALE])
    scales, numbers = first[:size], first[size:]
    if len(scales) < size:
        raise ArtifactError(_DAMAGED.format('predictor'))
    bias_values, pooled = decode_integers(numbers, [sum(map(math.prod, biases)), sum(map(math.prod, codes))])
    step_codes = [code.int() for code in _split(pooled, codes)]
    values = _decode_weights(coded_weights, weights)
    state, steps = {}, {}
    for index, (name, bias) in enumerate(zip(names, _split(bias_values, biases))):
        steps[f'{name}.weight'] = step_codes[2 * index]
        state[f'{name}.weight'] = dequantize(QuantizedTensor(values[index], step_codes[2 * index]))
        state[f'{name}.bias'] = dequantize(QuantizedTensor(bias, step_codes[2 * index + 1]))
    state[OUTPUT_SCALE] = torch.from_numpy(scales.copy().view(_SCALE).astype(np.float32))
    return state, steps


def encode_kept(kept: Mapping[str, Tensor], quantization: QuantizationConfig, norm_eps: NormEps) -> Tensor:
    """Kept tensors as bytes: all steps, then the integers of each tensor, or its logarithms."""
    integers = quantize_kept(kept, quantization, norm_eps)
    read = {name: dequantize_kept(part, quantization.kept_bits).to(kept[name].dtype)
            for name, part in integers.items()}
    check_finite(with_prefix('kept.', read), ' in integers')
    steps = _pooled([part.codes for part in integers.values() if part.values is not None])
    numbers = [part.codes if part.values is None else part.values for part in integers.values()]
    return torch.from_numpy(_joined(encode_integers([steps]), _encode_weights(numbers)))


def decode_kept(data: NDArray[np.uint8], expected: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Inverse of :func:`encode_kept`, given ``kept_bits`` and tensors of the same names, shapes and types."""
    kinds = {name: kept_kind(name, tensor) for name, tensor in expected.items()}
    shapes = [_code_shape(kind, expected[name]) for name, kind in kinds.items() if kind != 'logarithm']
    coded_steps, coded_numbers = _parted(data, 'kept tensors')
    codes = iter(_split(decode_integers(coded_steps, [sum(map(math.prod, shapes))])[0], shapes))
    numbers = _decode_weights(coded_numbers, [tuple(tensor.shape) for tensor in expected.values()])
    kept = {}
    for (name, kind), values in zip(kinds.items(), numbers):
        integers = QuantizedTensor(None, values) if kind == 'logarithm' \
            else QuantizedTensor(values, next(codes))
        kept[name] = dequantize_kept(integers, bits).to(expected[name].dtype)
    return kept


def _code_shape(kind: str, tensor: Tensor) -> tuple[int, ...]:
    """Shape of the steps of a tensor that has one for each of its rows, or one as a whole."""
    return (tensor.shape[0], *(1,) * (tensor.dim() - 1)) if kind == 'rows' else ()
