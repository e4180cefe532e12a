"""Quantized tensors as bytes: those of a predictor, rounded weights, and stored tensors. Each is one run of bytes."""
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from timm_sbs.common.tensors import with_prefix

__all__ = [
    'check_finite', 'encode_predictor', 'decode_predictor', 'encode_rounded', 'decode_rounded', 'encode_kept',
    'decode_kept',
]

_SCALE = np.dtype('<f4')  # of each of a predictor's output scales
_LARGEST_KERNEL = 64  # values; what is larger is no kernel, but has rows alone

Shape = Sequence[int]


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises ArtifactError where a number is not finite; ``where`` ends the sentence's first half."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(
                f"Tensor '{name}' holds values that are not finite{where}, so the artifact was not written. "
                f'Did training diverge?' + (' Or does the way of storing it overflow?' if where else ''))


def _matrix_shape(shape: Shape) -> tuple[int, int, int]:
    """A weight as filters, channels and values of a kernel; numbers of fewer dimensions as one filter."""
    kernel = math.prod(shape[2:])
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return (shape[0], shape[1], kernel) if kernel <= _LARGEST_KERNEL else (shape[0], shape[1] * kernel, 1)


def _encode(pooled: Sequence[Sequence[Tensor]], tensors: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Tensors that are pooled to vectors, and tensors with a matrix each."""
    vectors = [torch.cat([torch.zeros(0, dtype=torch.int32), *(part.cpu().flatten() for part in parts)])
               for parts in pooled]
    return encode_matrices([part.cpu().numpy().reshape(_matrix_shape(part.shape)) for part in (*vectors, *tensors)])


def _decode(
        data: NDArray[np.uint8], pooled: Sequence[Sequence[Shape]], shapes: Sequence[Shape],
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Inverse of :func:`_encode`, given all shapes."""
    sizes = [[math.prod(shape) for shape in vector] for vector in pooled]
    all_shapes = [*((sum(parts),) for parts in sizes), *shapes]
    matrices = [torch.from_numpy(matrix).reshape(tuple(shape)) for matrix, shape in zip(
        decode_matrices(data, [_matrix_shape(shape) for shape in all_shapes]), all_shapes)]
    parts = [[part.reshape(tuple(shape)) for part, shape in zip(vector.split(lengths), vector_shapes)]
             for vector, lengths, vector_shapes in zip(matrices, sizes, pooled)]
    return parts, matrices[len(pooled):]


def encode_rounded(rounded: Mapping[str, Tensor], steps: StepCodes) -> Tensor:
    """Rounded weights as bytes: their step sizes, and all integers."""
    integers = {name: quantize(tensor, steps[name], ROUNDED_LIMIT) for name, tensor in rounded.items()}
    check_finite({f'rounded.{name}': dequantize(part) for name, part in integers.items()}, ' in integers')
    parts = integers.values()
    return torch.from_numpy(_encode([[part.codes for part in parts]], [part.integers for part in parts]))


def decode_rounded(
        data: NDArray[np.uint8], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inverse of :func:`encode_rounded`, given tensors of the same shapes: the weights, and their step codes."""
    (codes,), values = _decode(data, [[()] * len(expected)], [tensor.shape for tensor in expected.values()])
    weights = {name: dequantize(QuantizedTensor(value, code)).to(expected[name].dtype)
               for name, value, code in zip(expected, values, codes)}
    return weights, dict(zip(expected, codes))


def encode_predictor(state: Mapping[str, Tensor], quantization: QuantizationConfig, steps: StepCodes) -> Tensor:
    """A predictor as bytes: its output scales, all biases and step sizes, and the weights of each layer."""
    integers = quantize_predictor(state, quantization, steps)
    check_finite({f'predictor.{name}': dequantize(part) for name, part in integers.items()}, ' in integers')
    weights, biases = ([integers[f'{name}.{part}'] for name in layer_names(state)] for part in ('weight', 'bias'))
    scales = state[OUTPUT_SCALE].detach().cpu().numpy().astype(_SCALE).view(np.uint8)
    pooled = ([part.integers for part in biases], [part.codes for part in weights], [part.codes for part in biases])
    return torch.from_numpy(np.concatenate([scales, _encode(pooled, [part.integers for part in weights])]))


def decode_predictor(
        data: NDArray[np.uint8], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inverse of :func:`encode_predictor`, given a state dict of the same shapes: the state dict, and its weights' step
    codes."""
    names = layer_names(expected)
    weights, biases = ([tuple(expected[f'{name}.{part}'].shape) for name in names] for part in ('weight', 'bias'))
    size = _SCALE.itemsize * len(expected[OUTPUT_SCALE])
    if len(data) < size:
        raise ArtifactError('The coded predictor is damaged: it is too short.')
    pooled, values = _decode(data[size:], (biases, [(rows, 1) for rows, _ in weights], [()] * len(names)), weights)
    state, steps = {}, {}
    for name, value, bias, code, bias_code in zip(names, values, *pooled):
        steps[f'{name}.weight'] = code
        state[f'{name}.weight'] = dequantize(QuantizedTensor(value, code))
        state[f'{name}.bias'] = dequantize(QuantizedTensor(bias, bias_code))
    state[OUTPUT_SCALE] = torch.from_numpy(data[:size].copy().view(_SCALE).astype(np.float32))
    return state, steps


def encode_kept(kept: Mapping[str, Tensor], quantization: QuantizationConfig, norm_eps: NormEps) -> Tensor:
    """Stored tensors as bytes: all step sizes, then the integers of each tensor, or its logarithms."""
    integers = quantize_kept(kept, quantization, norm_eps)
    read = {name: dequantize_kept(part, quantization.kept_bits).to(kept[name].dtype)
            for name, part in integers.items()}
    check_finite(with_prefix('kept.', read), ' in integers')
    parts = integers.values()
    steps = [part.codes for part in parts if part.values is not None]
    return torch.from_numpy(_encode([steps], [part.codes if part.values is None else part.values for part in parts]))


def decode_kept(data: NDArray[np.uint8], expected: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Inverse of :func:`encode_kept`, given ``kept_bits`` and tensors of the same names, shapes and types."""
    kinds = {name: kept_kind(name, tensor) for name, tensor in expected.items()}
    shapes = [_code_shape(kind, expected[name]) for name, kind in kinds.items() if kind != 'logarithm']
    (steps,), numbers = _decode(data, [shapes], [tensor.shape for tensor in expected.values()])
    codes = iter(steps)
    integers = {name: QuantizedTensor(None, values) if kinds[name] == 'logarithm'
                else QuantizedTensor(values, next(codes)) for name, values in zip(kinds, numbers)}
    return {name: dequantize_kept(part, bits).to(expected[name].dtype) for name, part in integers.items()}


def _code_shape(kind: str, tensor: Tensor) -> tuple[int, ...]:
    """Shape of the steps of a tensor that has one for each of its rows, or one as a whole."""
    return (tensor.shape[0], *(1,) * (tensor.dim() - 1)) if kind == 'rows' else ()
