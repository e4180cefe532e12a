"""The tensors of model.safetensors: which there are, and what they stand for.

Unquantized, every tensor of the predictor and every stored tensor has its own name, as floats; weights that were to be
rounded are stored tensors. Quantized, the predictor, all rounded weights and all stored tensors are one run of bytes
each; only stored tensors that are not floats stay as they are. Orderings are one run of bytes, and frequencies 16-bit
integers, in both.
"""
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_sbs.codec.kept import NormEps, dequantize_kept, kept_codes_shape, quantize_kept
from timm_sbs.codec.matrices import decode_matrices, encode_matrices
from timm_sbs.codec.permutations import decode_permutations, encode_permutations, most_coded_bytes
from timm_sbs.codec.quantization import (
    OUTPUT_SCALE,
    ROUNDED_LIMIT,
    QuantizedTensor,
    StepCodes,
    dequantize,
    layer_names,
    predictor_codes,
    predictor_floats,
    quantize,
)
from timm_sbs.common.config import ArtifactConfig, QuantizationConfig
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.tensors import as_float64, with_prefix, without_prefix
from timm_sbs.predictor.base_model import kept_names
from timm_sbs.predictor.encoding import FREQUENCY_LIMIT, FREQUENCY_STEPS
from timm_sbs.predictor.network import Predictor
from timm_sbs.predictor.ordering import Permutations, check_permutations, permutation_shapes
from timm_sbs.predictor.selection import rounded_names
from timm_sbs.predictor.tokens import WeightSpec

__all__ = [
    'Contents', 'Slot', 'slots', 'to_tensors', 'from_tensors', 'stored_integers', 'encode_quantized',
    'decode_quantized']

# How safetensors names torch's dtypes in a file's header.
_DTYPE_CODES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.bool: 'BOOL',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8',
}
_BYTES = {code: dtype.itemsize for dtype, code in _DTYPE_CODES.items()}
_BYTES_PER_INTEGER = 4  # more than any code takes
_OTHER_BYTES = 1 << 20  # more than all headers and step sizes take
_LARGEST = 1e38  # magnitude of a number that is still finite once it is rounded to a multiple of a step size

_SCALE = np.dtype('<f4')  # of each of a predictor's output scales
_LARGEST_KERNEL = 64  # values; what is larger is no kernel, but has rows alone

State = Mapping[str, Tensor]
Shape = Sequence[int]


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds, decoded. ``predictor``, ``rounded`` and ``kept`` are state dicts.

    Attributes:
        steps: Codes of the step sizes of predictor ('predictor.' and a name) and of rounded weights ('rounded.').
        norm_eps: Of the base model's BatchNorms, see :func:`~timm_sbs.codec.kept.quantize_kept`. No file holds it.
    """
    predictor: dict[str, Tensor]
    frequencies: Tensor
    permutations: tuple[Permutations, ...]
    kept: dict[str, Tensor]
    rounded: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)
    norm_eps: NormEps = field(default_factory=dict)


@dataclass(frozen=True)
class Slot:
    """What a tensor of the file must be. With ``coded``, [n] bytes for any n up to ``shape[0]``."""
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it
    coded: bool = False

    @property
    def nbytes(self) -> int:
        """At the most."""
        return math.prod(self.shape) * _BYTES.get(self.dtype, 8)

    def holds(self, found: 'Slot') -> bool:
        """Whether a tensor of a file, in words of the same kind, may be here."""
        if self.coded:
            return found.dtype == self.dtype and len(found.shape) == 1 and found.shape[0] <= self.shape[0]
        return (found.shape, found.dtype) == (self.shape, self.dtype)

    def __str__(self) -> str:
        return f'{self.dtype} of shape [{"up to " if self.coded else ""}{", ".join(map(str, self.shape))}]'


def _expected(config: ArtifactConfig, base_state: State) -> tuple[State, State, State]:
    """Rounded weights, stored tensors that are coded where the artifact is quantized, and the other stored ones."""
    rounded = {name: base_state[name] for name in rounded_names(config.rounded, config.generated, base_state)}
    names = kept_names(base_state, (*config.generated, *rounded))
    kept = {name: base_state[name] for name in (config.update.stored(names) if config.update else names)}
    coded = {name: tensor for name, tensor in kept.items() if config.quantization and tensor.is_floating_point()}
    return rounded, coded, {name: tensor for name, tensor in kept.items() if name not in coded}


def slots(
        config: ArtifactConfig, specs: Sequence[WeightSpec], predictor: Predictor, base_state: State,
) -> dict[str, Slot]:
    """Every tensor that model.safetensors must hold. ``predictor`` and ``base_state`` may be on the meta device."""
    rounded, coded, others = _expected(config, base_state)
    state = predictor.state_dict() if specs else {}
    if config.quantization:
        found = {part: Slot((_BYTES_PER_INTEGER * sum(tensor.numel() for tensor in tensors.values()) + _OTHER_BYTES,),
                            'U8', coded=True)
                 for part, tensors in (('predictor', state), ('rounded', rounded), ('kept', coded)) if tensors}
    else:
        plain = predictor_floats(state, config.storage_dtype)
        found = {f'predictor.{name}': _plain(tensor) for name, tensor in plain.items()}
    found |= {f'kept.{name}': _plain(tensor) for name, tensor in others.items()}
    if specs:
        found['frequencies'] = Slot(config.generator.frequencies_shape, 'I16')
        found['ordering'] = Slot((most_coded_bytes(_permutation_shapes(config, specs)),), 'U8', coded=True)
    return found


def _plain(tensor: Tensor) -> Slot:
    return Slot(tuple(tensor.shape), _DTYPE_CODES.get(tensor.dtype, 'unknown'))


def _permutation_shapes(config: ArtifactConfig, specs: Sequence[WeightSpec]) -> list[tuple[int, int]]:
    return [shape for spec in specs for shape in permutation_shapes(spec, config.ordering)]


def to_tensors(contents: Contents, config: ArtifactConfig, specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
    """Contents as the tensors of a file.

    Raises:
        ArtifactError: A number is too large or not finite, a frequency not a multiple of 1/4096, or an ordering not a
            permutation of its layer's kernels.
    """
    predictor, then = contents.predictor if specs else {}, ', so the artifact was not written. Did training diverge?'
    for part, state in (('predictor', predictor), ('rounded', contents.rounded), ('kept', contents.kept)):
        _check_finite(part, state, f' or beyond {_LARGEST:g}{then}', _LARGEST)
    tensors: dict[str, Tensor] = {}
    if config.quantization:
        floats = {name: tensor for name, tensor in contents.kept.items() if tensor.is_floating_point()}
        if predictor:
            steps = without_prefix('predictor.', contents.steps)
            tensors['predictor'] = _encode_predictor(predictor, config.quantization, steps)
        if contents.rounded:
            tensors['rounded'] = encode_quantized({
                name: quantize(tensor, contents.steps[f'rounded.{name}'], ROUNDED_LIMIT)
                for name, tensor in contents.rounded.items()})
        if floats:
            tensors['kept'] = encode_quantized(quantize_kept(floats, config.quantization, contents.norm_eps))
        tensors.update({f'kept.{name}': tensor for name, tensor in contents.kept.items() if name not in floats})
    else:
        predictor = predictor_floats(predictor, config.storage_dtype)
        _check_finite('predictor', predictor, f' in {config.storage_dtype}{then}')
        tensors = {**with_prefix('predictor.', predictor), **with_prefix('kept.', contents.kept | contents.rounded)}
    if specs:
        tensors['frequencies'] = _frequency_steps(contents.frequencies)
        for layer, spec in zip(contents.permutations, specs):
            check_permutations(layer, spec, config.ordering)
        rows = [rows for layer in contents.permutations for rows in layer]
        tensors['ordering'] = torch.from_numpy(encode_permutations(rows))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _check_finite(part: str, tensors: State, then: str, largest: float = torch.finfo(torch.float32).max) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (as_float64(tensor).abs() <= largest).all():
            raise ArtifactError(f"Tensor '{part}.{name}' holds values that are not finite{then}")


def _frequency_steps(frequencies: Tensor) -> Tensor:
    steps = as_float64(frequencies) * FREQUENCY_STEPS
    if not torch.equal(steps, steps.round().clamp(-FREQUENCY_LIMIT, FREQUENCY_LIMIT)):
        raise ArtifactError(
            f'The frequencies are not multiples of 1/{FREQUENCY_STEPS} up to {FREQUENCY_LIMIT / FREQUENCY_STEPS:g}, as '
            f'draw_frequencies makes them, so they cannot be stored.')
    return steps.to(torch.int16)


def from_tensors(
        tensors: State, config: ArtifactConfig, specs: Sequence[WeightSpec], predictor: Predictor, base_state: State,
) -> Contents:
    """Inverse of :func:`to_tensors`. ``predictor`` and ``base_state`` give names and shapes, and may be on meta.

    Raises:
        ArtifactError: Coded integers are damaged, or a number is not finite.
    """
    state = {name: tensor.float() for name, tensor in without_prefix('predictor.', tensors).items()}
    kept, rounded, steps = without_prefix('kept.', tensors), dict[str, Tensor](), dict[str, Tensor]()
    if config.quantization:
        parts = stored_integers(tensors, config, predictor.state_dict() if specs else {}, base_state)
        for name, part in without_prefix('predictor.', parts).items():
            state[name] = dequantize(part)
            if name.endswith('.weight'):
                steps[f'predictor.{name}'] = part.codes
        for name, part in without_prefix('rounded.', parts).items():
            rounded[name], steps[f'rounded.{name}'] = dequantize(part), part.codes
        for name, part in without_prefix('kept.', parts).items():
            kept[name] = dequantize_kept(part, config.quantization.kept_bits)
        if specs:
            state[OUTPUT_SCALE] = _output_scale(tensors['predictor'], len(specs))
    for kind, found in (('predictor', state), ('rounded', rounded), ('kept', kept)):
        _check_finite(kind, found, '.')
    if not specs:
        return Contents({OUTPUT_SCALE: torch.ones(0)}, torch.zeros(config.generator.frequencies_shape), (), kept,
                        rounded, steps)
    rows = iter(decode_permutations(tensors['ordering'].numpy(), _permutation_shapes(config, specs)))
    permutations = tuple(tuple(next(rows) for _ in permutation_shapes(spec, config.ordering)) for spec in specs)
    return Contents(state, tensors['frequencies'].float() / FREQUENCY_STEPS, permutations, kept, rounded, steps)


def stored_integers(
        tensors: State, config: ArtifactConfig, predictor: State, base_state: State) -> dict[str, QuantizedTensor]:
    """The integers of a quantized artifact's file, by 'predictor.', 'rounded.' or 'kept.' and a name.

    Raises:
        ArtifactError: They are damaged.
    """
    rounded, kept, _ = _expected(config, base_state)
    found = dict[str, QuantizedTensor]()
    if predictor:
        found.update(with_prefix('predictor.', _decode_predictor(tensors['predictor'], predictor)))
    if rounded:
        code_shapes: dict[str, Shape] = dict.fromkeys(rounded, ())
        found.update(with_prefix('rounded.', decode_quantized(tensors['rounded'], rounded, code_shapes)))
    if kept:
        code_shapes = {name: kept_codes_shape(name, tensor) for name, tensor in kept.items()}
        found.update(with_prefix('kept.', decode_quantized(tensors['kept'], kept, code_shapes)))
    return found


def _matrix_shape(shape: Shape) -> tuple[int, int, int]:
    """A weight as filters, channels and values of a kernel; numbers of fewer dimensions as one filter."""
    kernel = math.prod(shape[2:])
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return (shape[0], shape[1], kernel) if kernel <= _LARGEST_KERNEL else (shape[0], shape[1] * kernel, 1)


def _encode(tensors: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Integers of each tensor as a matrix, all of them as one run of bytes."""
    return encode_matrices([tensor.cpu().numpy().reshape(_matrix_shape(tensor.shape)) for tensor in tensors])


def _decode(data: NDArray[np.uint8], shapes: Sequence[Shape]) -> list[Tensor]:
    """Inverse of :func:`_encode`, given all shapes."""
    matrices = decode_matrices(data, [_matrix_shape(shape) for shape in shapes])
    return [torch.from_numpy(matrix).reshape(tuple(shape)) for matrix, shape in zip(matrices, shapes)]


def _joined(parts: Iterable[Tensor]) -> Tensor:
    """Integers of some tensors as one vector."""
    return torch.cat([torch.zeros(0, dtype=torch.int32), *(part.cpu().flatten() for part in parts)])


def encode_quantized(tensors: Mapping[str, QuantizedTensor]) -> Tensor:
    """Rounded weights or stored tensors as bytes: the step codes of all, and the integers of each."""
    parts = tensors.values()
    return torch.from_numpy(_encode([_joined(part.codes for part in parts), *(part.integers for part in parts)]))


def decode_quantized(data: Tensor, expected: State, code_shapes: Mapping[str, Shape]) -> dict[str, QuantizedTensor]:
    """Inverse of :func:`encode_quantized`, given tensors of the same shapes, and the shapes of their codes."""
    sizes = [math.prod(shape) for shape in code_shapes.values()]
    codes, *integers = _decode(data.numpy(), [(sum(sizes),), *(tensor.shape for tensor in expected.values())])
    return {name: QuantizedTensor(part, code.reshape(tuple(code_shapes[name])))
            for name, part, code in zip(expected, integers, codes.split(sizes))}


def _encode_predictor(state: State, config: QuantizationConfig, steps: StepCodes) -> Tensor:
    """A predictor as bytes: its output scales, all biases and step codes, and the weights of each layer."""
    quantized = {name: quantize(state[name], *codes) for name, codes in predictor_codes(state, config, steps).items()}
    weights, biases = ([quantized[f'{name}.{part}'] for name in layer_names(state)] for part in ('weight', 'bias'))
    scales = state[OUTPUT_SCALE].detach().cpu().numpy().astype(_SCALE).view(np.uint8)
    return torch.from_numpy(np.concatenate([scales, _encode([
        _joined(bias.integers for bias in biases), _joined(weight.codes for weight in weights),
        _joined(bias.codes for bias in biases), *(weight.integers for weight in weights)])]))


def _decode_predictor(data: Tensor, expected: State) -> dict[str, QuantizedTensor]:
    """Integers of what :func:`_encode_predictor` wrote, given a state dict of the same shapes."""
    names, coded = layer_names(expected), data.numpy()[_SCALE.itemsize * len(expected[OUTPUT_SCALE]):]
    shapes = [expected[f'{name}.weight'].shape for name in names]
    heights = [height for height, _ in shapes]
    rows = (sum(heights),)
    biases, codes, bias_codes, *weights = _decode(coded, [rows, rows, (len(names),), *shapes])
    found = {}
    for name, weight, code, bias, bias_code in zip(
            names, weights, codes[:, None].split(heights), biases.split(heights), bias_codes):
        found[f'{name}.weight'] = QuantizedTensor(weight, code)
        found[f'{name}.bias'] = QuantizedTensor(bias, bias_code)
    return found


def _output_scale(data: Tensor, count: int) -> Tensor:
    """Scales of so many weights, with which a coded predictor begins."""
    coded, size = data.numpy(), _SCALE.itemsize * count
    if len(coded) < size:
        raise ArtifactError('The coded predictor is damaged: it is too short.')
    return torch.from_numpy(coded[:size].copy().view(_SCALE).astype(np.float32))
