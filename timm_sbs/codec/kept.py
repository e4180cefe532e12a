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

__all__ = [
    'NormEps', 'kept_codes_shape', 'step_limit', 'integers_per_e', 'quantize_kept', 'dequantize_kept', 'stored_kept',
]

NormEps = Mapping[str, float]  # of a network's BatchNorms, by the prefix of their tensors' names
NO_NORMS: NormEps = {}

MEAN_STEP = 64  # of a BatchNorm's means, relative to the step sizes of other vectors
FINEST_RATIO = 1023  # so that integers reach far enough: 10^12 times the limit at 12 bits
ROW_RANGE = 8  # times the typical size of a row's numbers, up to which ``kept_bits`` reach, as to the largest one


def kept_codes_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Shape of a stored tensor's step codes: one for each row, or one for a vector.

    Variances have none, [0]: their relative error counts, so their integers are themselves step codes.
    """
    if name.endswith('running_var'):
        return (0,)
    return (tensor.shape[0], *(1,) * (tensor.dim() - 1)) if tensor.dim() > 1 else ()


def step_limit(bits: int) -> int:
    """The largest integer that counts steps."""
    return (1 << bits) - 1


def integers_per_e(bits: int) -> int:
    """Integers from a number to e times that, beyond the limit: the relative precision is about what it is there."""
    return min(step_limit(bits), FINEST_RATIO)


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
    limit, per_e, exact = step_limit(bits), integers_per_e(bits), as_float64(rows)
    finest = exact.abs().amax(dim=1, keepdim=True) / limit * math.exp((limit - ROUNDED_LIMIT) / per_e)
    codes = step_codes(torch.maximum(as_float64(steps), finest), up=True)
    scaled = exact.abs() / as_float64(step_sizes(codes))
    integers = torch.where(scaled <= limit, scaled, limit + per_e * (scaled / limit).clamp(min=1).log())
    return (integers.round().clamp(max=ROUNDED_LIMIT) * exact.sign()).int().to(rows.device), codes.to(rows.device)


def dequantize_kept(quantized: QuantizedTensor, bits: int) -> Tensor:
    """The stored tensor that integers stand for, float32."""
    if quantized.codes.shape == (0,):
        return step_sizes(quantized.integers)
    limit, values = step_limit(bits), as_float64(quantized.integers)
    beyond = limit * ((values.abs() - limit).clamp(min=0) / integers_per_e(bits)).exp() * values.sign()
    numbers = torch.where(values.abs() <= limit, values, beyond) * as_float64(step_sizes(quantized.codes))
    return numbers.float().to(quantized.integers.device)


def _quantized_vectors(vectors: Mapping[str, Tensor], bits: int, step: int = 1) -> dict[str, QuantizedTensor]:
    """Vectors with one step size each, all at once: a network has a hundred small ones, and a GPU counts calls."""
    if not vectors:
        return {}
    rows = pad_sequence([vector.flatten() for vector in vectors.values()], batch_first=True)
    integers, codes = _integers(rows, step * _typical(rows.abs()) / step_limit(bits), bits)
    return {name: QuantizedTensor(row[:vector.numel()].view_as(vector), code.squeeze())
            for (name, vector), row, code in zip(vectors.items(), integers, codes)}


def _quantized_rows(tensor: Tensor, bits: int) -> QuantizedTensor:
    rows = tensor.flatten(1)
    largest = rows.abs().amax(dim=1, keepdim=True)
    steps = torch.minimum(largest, ROW_RANGE * _typical(rows.abs())) / step_limit(bits - 1)
    integers, codes = _integers(rows, steps, bits)
    return QuantizedTensor(integers.view_as(tensor), codes.view(kept_codes_shape('', tensor)))


@torch.no_grad()
def quantize_kept(
        kept: Mapping[str, Tensor], config: QuantizationConfig, norm_eps: NormEps = NO_NORMS,
) -> dict[str, QuantizedTensor]:
    """The floating-point tensors among stored ones, BatchNorm's in an order in which each makes up for those before it.

    ``norm_eps`` are those of the network's BatchNorms; what is rounded in one that is not there, or that has no weight
    and bias among ``kept``, is not made up for.
    """
    exact = {name: tensor.detach().float() for name, tensor in kept.items() if tensor.is_floating_point()}
    bits, found = config.kept_bits, dict[str, QuantizedTensor]()
    for name, tensor in exact.items():
        shape = kept_codes_shape(name, tensor)
        if shape == (0,):
            found[name] = QuantizedTensor(step_codes(tensor), torch.empty(0, dtype=torch.int32))
        elif shape:
            found[name] = _quantized_rows(tensor, bits)
    parts = ('running_var', 'running_mean', 'weight', 'bias')
    norms = [prefix for prefix in norm_eps if all(f'{prefix}{part}' in exact for part in parts)]
    if norms:
        variances, means, weights, biases = ([f'{prefix}{part}' for prefix in norms] for part in parts)
        sizes = [exact[name].numel() for name in means]
        variance, mean, weight, bias = (
            torch.cat([exact[name] for name in names]) for names in (variances, means, weights, biases))
        eps = torch.tensor([norm_eps[prefix] for prefix in norms]).repeat_interleave(torch.tensor(sizes)).to(mean)
        deviation = (step_sizes(torch.cat([found[name].integers for name in variances])) + eps).sqrt()
        found.update(_quantized_vectors({name: exact[name] for name in means}, bits, MEAN_STEP))
        weight *= deviation / (variance + eps).sqrt()
        found.update(_quantized_vectors(dict(zip(weights, weight.split(sizes))), bits))
        bias += _joined(found, weights, bits) / deviation * (_joined(found, means, bits) - mean)
        exact.update(zip(biases, bias.split(sizes)))
    found.update(_quantized_vectors({name: tensor for name, tensor in exact.items() if name not in found}, bits))
    return {name: found[name] for name in exact}


def _joined(found: Mapping[str, QuantizedTensor], names: Sequence[str], bits: int) -> Tensor:
    """What the integers of some tensors stand for, one after the other, in one call."""
    parts = [found[name] for name in names]
    codes = torch.cat([part.codes.expand_as(part.integers).flatten() for part in parts])
    return dequantize_kept(QuantizedTensor(torch.cat([part.integers.flatten() for part in parts]), codes), bits)


def stored_kept(
        kept: Mapping[str, Tensor], storage: StorageConfig, norm_eps: NormEps = NO_NORMS) -> dict[str, Tensor]:
    """Stored tensors as a reader of the artifact will have them. Differentiable as if nothing were rounded."""
    stored = dict(kept)
    if storage.quantization is None:
        return stored
    found, bits = quantize_kept(kept, storage.quantization, norm_eps), storage.quantization.kept_bits
    values = {name: step_sizes(part.integers) for name, part in found.items() if part.codes.shape == (0,)}
    if others := [name for name in found if name not in values]:
        sizes = [kept[name].numel() for name in others]
        values.update(zip(others, _joined(found, others, bits).split(sizes)))
    for name, value in values.items():
        tensor = kept[name]
        value = value.view_as(tensor).to(tensor.dtype)
        stored[name] = value + (tensor - tensor.detach()) if tensor.requires_grad else value
    return stored
