"""Stored tensors to integers and back, so that no number costs its neighbours their precision.

Integers count steps up to a limit, and go on in logarithms beyond it, where the relative error counts. So the step size
of a vector follows from its typical numbers, and neither outliers nor zeros matter. What rounding does to a BatchNorm's
statistics is made up for by its weight and bias, which are rounded after them; its means may then be coarse. As in
:mod:`timm_sbs.codec.quantization`, what training sees is what a reader of the artifact gets.
"""
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from timm_sbs.codec.quantization import ROUNDED_LIMIT, QuantizedTensor, step_codes, step_sizes
from timm_sbs.common.config import QuantizationConfig, StorageConfig
from timm_sbs.common.tensors import as_float64

__all__ = ['NormEps', 'is_quantized', 'kept_kind', 'quantize_kept', 'dequantize_kept', 'stored_kept']

NormEps = Mapping[str, float]  # of a network's BatchNorms, by the prefix of their tensors' names
NO_NORMS: NormEps = {}

MEAN_STEP = 64  # of a BatchNorm's means, relative to the step sizes of other vectors
FINEST_RATIO = 1023  # so that integers reach far enough: 10^12 times the limit at 12 bits
ROW_RANGE = 8  # times the typical size of a row's numbers, up to which ``kept_bits`` reach, as to the largest one

_Rounded = dict[str, tuple[QuantizedTensor, Tensor]]  # integers, and what they stand for, in float32


def is_quantized(tensor: Tensor) -> bool:
    """Whether a stored tensor is rounded: all floating-point ones are."""
    return tensor.is_floating_point()


def kept_kind(name: str, tensor: Tensor) -> str:
    """How a stored tensor is rounded.

    'logarithm': variances, whose relative error counts. 'rows': a step size for each output row. 'whole': one of all.
    """
    if name.endswith('running_var'):
        return 'logarithm'
    return 'rows' if tensor.dim() > 1 else 'whole'


def _limit(bits: int) -> int:
    """The largest integer that counts steps."""
    return (1 << bits) - 1


def _per_e(bits: int) -> int:
    """Integers from a number to e times that, beyond the limit: the relative precision is about what it is there."""
    return min(_limit(bits), FINEST_RATIO)


def _typical(magnitudes: Tensor) -> Tensor:
    """Median, or twice the lower quartile if that is less, of the numbers in each row that are not zero: [R, 1]."""
    ordered = magnitudes.sort(dim=1).values
    last = ordered.shape[1] - 1
    zeros = (ordered == 0).sum(dim=1, keepdim=True)
    others = (last - zeros).clamp(min=0)
    median, quartile = (ordered.gather(1, (zeros + others // part).clamp(max=last)) for part in (2, 4))
    return torch.minimum(median, 2 * quartile)


def _integers(rows: Tensor, steps: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers and step codes of numbers [R, n], with the next larger step sizes that have a code: [R, n], [R, 1]."""
    limit, per_e, exact = _limit(bits), _per_e(bits), as_float64(rows)
    finest = exact.abs().amax(dim=1, keepdim=True) / limit * math.exp((limit - ROUNDED_LIMIT) / per_e)
    codes = step_codes(torch.maximum(as_float64(steps), finest), up=True)
    scaled = exact.abs() / as_float64(step_sizes(codes))
    integers = torch.where(scaled <= limit, scaled, limit + per_e * (scaled / limit).clamp(min=1).log())
    return (integers.round().clamp(max=ROUNDED_LIMIT) * exact.sign()).int().to(rows.device), codes.to(rows.device)


def dequantize_kept(integers: QuantizedTensor, bits: int) -> Tensor:
    """The stored tensor that integers stand for, float32."""
    if integers.values is None:
        return step_sizes(integers.codes)
    limit, values = _limit(bits), as_float64(integers.values)
    beyond = limit * ((values.abs() - limit).clamp(min=0) / _per_e(bits)).exp() * values.sign()
    numbers = torch.where(values.abs() <= limit, values, beyond) * as_float64(step_sizes(integers.codes))
    return numbers.float().to(integers.values.device)


def _rounded_vectors(vectors: Mapping[str, Tensor], bits: int, step: int = 1) -> _Rounded:
    """Vectors of the kind 'whole', all at once: a network has a hundred small ones, and a GPU counts calls."""
    if not vectors:
        return {}
    rows = pad_sequence([vector.flatten() for vector in vectors.values()], batch_first=True)
    integers, codes = _integers(rows, step * _typical(rows.abs()) / _limit(bits), bits)
    values = dequantize_kept(QuantizedTensor(integers, codes), bits)
    return {name: (QuantizedTensor(row[:vector.numel()].view_as(vector), code.squeeze()),
                   value[:vector.numel()].view_as(vector))
            for (name, vector), row, code, value in zip(vectors.items(), integers, codes, values)}


def _rounded_rows(tensor: Tensor, bits: int) -> tuple[QuantizedTensor, Tensor]:
    rows = tensor.flatten(1)
    largest = rows.abs().amax(dim=1, keepdim=True)
    steps = torch.minimum(largest, ROW_RANGE * _typical(rows.abs())) / _limit(bits - 1)
    integers, codes = _integers(rows, steps, bits)
    part = QuantizedTensor(integers.view_as(tensor), codes.view(-1, *(1,) * (tensor.dim() - 1)))
    return part, dequantize_kept(part, bits)


@torch.no_grad()
def _rounded_kept(kept: Mapping[str, Tensor], bits: int, norm_eps: NormEps) -> _Rounded:
    """All floating-point tensors, BatchNorm's in an order in which each makes up for those before it."""
    exact = {name: tensor.detach().float() for name, tensor in kept.items() if is_quantized(tensor)}
    found: _Rounded = {}
    for name, tensor in exact.items():
        if kept_kind(name, tensor) == 'logarithm':
            codes = step_codes(tensor)
            found[name] = QuantizedTensor(None, codes), step_sizes(codes)
        elif kept_kind(name, tensor) == 'rows':
            found[name] = _rounded_rows(tensor, bits)
    parts = ('running_var', 'running_mean', 'weight', 'bias')
    norms = [prefix for prefix in norm_eps if all(f'{prefix}{part}' in exact for part in parts)]
    if norms:
        variances, means, weights, biases = ([f'{prefix}{part}' for prefix in norms] for part in parts)
        sizes = [exact[name].numel() for name in means]
        variance, mean, weight, bias = (_joined(exact, names) for names in (variances, means, weights, biases))
        eps = torch.tensor([norm_eps[prefix] for prefix in norms]).repeat_interleave(torch.tensor(sizes)).to(mean)
        deviation = (_joined(found, variances) + eps).sqrt()
        found.update(_rounded_vectors({name: exact[name] for name in means}, bits, MEAN_STEP))
        weight *= deviation / (variance + eps).sqrt()
        found.update(_rounded_vectors(dict(zip(weights, weight.split(sizes))), bits))
        bias += _joined(found, weights) / deviation * (_joined(found, means) - mean)
        exact.update(zip(biases, bias.split(sizes)))
    found.update(_rounded_vectors({name: tensor for name, tensor in exact.items() if name not in found}, bits))
    return found


def _joined(tensors: Mapping[str, Tensor] | _Rounded, names: Sequence[str]) -> Tensor:
    found = (tensors[name] for name in names)
    return torch.cat([tensor if isinstance(tensor, Tensor) else tensor[1] for tensor in found])


def quantize_kept(
        kept: Mapping[str, Tensor], config: QuantizationConfig, norm_eps: NormEps = NO_NORMS,
) -> dict[str, QuantizedTensor]:
    """QuantizedTensor of each floating-point tensor among stored ones.

    ``norm_eps`` are those of the network's BatchNorms; what is rounded in one that is not there, or that has no weight
    and bias among ``kept``, is not made up for.
    """
    found = _rounded_kept(kept, config.kept_bits, norm_eps)
    return {name: found[name][0] for name in kept if name in found}


def stored_kept(
        kept: Mapping[str, Tensor], storage: StorageConfig, norm_eps: NormEps = NO_NORMS) -> dict[str, Tensor]:
    """Stored tensors as a reader of the artifact will have them. Differentiable as if nothing were rounded."""
    if storage.quantization is None:
        return dict(kept)
    stored = dict(kept)
    for name, (_, value) in _rounded_kept(kept, storage.quantization.kept_bits, norm_eps).items():
        tensor, value = kept[name], value.to(kept[name].dtype)
        stored[name] = value + (tensor - tensor.detach()) if tensor.requires_grad else value
    return stored
