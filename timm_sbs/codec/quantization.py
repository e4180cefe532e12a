"""Tensors to integers and back: predictor weights by row, rounded weights as a whole.

Step sizes are powers of 2^(1/16), so that a small integer stores each of them. Everything here is a pure function of
the tensors: what training sees (:func:`rounded_predictor`, :func:`stored_rounded`, which let gradients pass through the
rounding) is what a reader of the artifact gets, bit by bit on the same machine.
"""
import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_sbs.common.config import QuantizationConfig, StorageConfig
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.tensors import as_float64
from timm_sbs.predictor.network import Predictor

__all__ = [
    'QuantizedTensor', 'StepCodes', 'layer_names', 'predictor_codes', 'quantize_predictor', 'dequantize', 'quantize',
    'leaning_to_exact', 'leaning_to_zero', 'rounded', 'rounded_predictor', 'stored_predictor', 'predictor_floats',
    'stored_rounded', 'code_for_bits', 'finest_code', 'step_codes', 'step_sizes', 'ROUNDED_LIMIT',
    'OUTPUT_SCALE',
]

StepCodes = Mapping[str, Tensor]  # of some weights by name, int32: step sizes are 2^(code / 16)
NO_STEPS: StepCodes = {}
OUTPUT_SCALE = 'output_scale'  # in a predictor's state dict: never trained, stored exactly

STEPS_PER_OCTAVE = 16
NORMAL_ENTROPY = math.log2(math.sqrt(2 * math.pi * math.e))  # bits of a normal distribution, in units of its deviation
# Training from integers times their step sizes alone, all numbers reach the next integer at the same time. Of 0, 0.5,
# 0.65, 0.8 and 0.95, 0.5 was best: after 300 optimization steps of ResNet-20 in 39.6 kB, divergences 0.146, 0.102,
# 0.108, 0.115, 0.140.
LEAN = 0.5
LIMIT = 4095  # largest integer of a predictor weight
ROUNDED_LIMIT = 32767  # of a rounded weight: a stem has few weights and long tails, and may have small step sizes
ON_GRID = 1e-3  # of a step size: so near to an integer is one
# Of a step size or a variance: 2^-40 stands for 0, and 2^(127 15/16) is the largest in float32.
SMALLEST_CODE, LARGEST_CODE = -40 * STEPS_PER_OCTAVE, 128 * STEPS_PER_OCTAVE - 1


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A quantized tensor: ``values * 2^(codes / 16)``, or, without values, ``2^(codes / 16)``.

    Shapes: R rows
        values: the tensor's own shape, int32; None for a tensor that is stored by its logarithm
        codes [R, 1, ...] or []: one for each row or one for all, int32
    """
    values: Tensor | None
    codes: Tensor

    @property
    def integers(self) -> Tensor:
        """``values`` of a tensor that is not stored by its logarithm."""
        if self.values is None:
            raise ValueError('A tensor that is stored by its logarithm has no values.')
        return self.values


def layer_names(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the predictor's layers in the order of ``layer_bits``: trunk, then heads from the smallest kernel."""
    names = {name.rsplit('.', 1)[0] for name in state if name.endswith('.weight')}
    return sorted(names, key=lambda name: (name.startswith('heads'), int(name.rsplit('.', 1)[1])))


def step_codes(steps: Tensor, up: bool = False) -> Tensor:
    """Sixteenths of an octave, rounded to the nearest, or up."""
    exact = STEPS_PER_OCTAVE * torch.log2(as_float64(steps))
    return (exact.ceil() if up else exact.round()).clamp(SMALLEST_CODE, LARGEST_CODE).int().to(steps.device)


def step_sizes(codes: Tensor) -> Tensor:
    """Step sizes that codes stand for, float32."""
    return torch.exp2(as_float64(codes) / STEPS_PER_OCTAVE).float().to(codes.device)


def _row_codes(weight: Tensor, bits: float) -> Tensor:
    """Step sizes of a weight's rows [R, F], for an entropy of ``bits``: [R, 1]."""
    rms = as_float64(weight.detach()).square().mean(dim=1, keepdim=True).sqrt()
    return step_codes(rms * 2 ** (NORMAL_ENTROPY - bits)).to(weight.device)


def _range_codes(tensor: Tensor, bits: int) -> Tensor:
    """Step size with which ``bits`` reach to the largest value: []."""
    return step_codes(tensor.detach().abs().amax() / _limit(bits), up=True)


def _limit(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def predictor_codes(
        state: Mapping[str, Tensor],
        config: QuantizationConfig,
        steps: StepCodes = NO_STEPS,
) -> dict[str, tuple[Tensor, int]]:
    """Step codes and largest integer of every weight and bias of a predictor.

    Args:
        state: Of the predictor.
        config: Bits of each layer.
        steps: Codes of weights whose step sizes are known already, by name.
    """
    names = layer_names(state)
    if len(names) != len(config.layer_bits):
        raise ConfigError(
            f'quantization.layer_bits has {len(config.layer_bits)} entries, but the predictor has {len(names)} layers.')
    codes = {}
    for name, bits in zip(names, config.layer_bits):
        weight = state[f'{name}.weight']
        known = steps.get(f'{name}.weight')
        codes[f'{name}.weight'] = _row_codes(weight, bits) if known is None else known.to(weight.device), LIMIT
        codes[f'{name}.bias'] = _range_codes(state[f'{name}.bias'], config.bias_bits), _limit(config.bias_bits)
    return codes


def quantize_predictor(
        state: Mapping[str, Tensor],
        config: QuantizationConfig,
        steps: StepCodes = NO_STEPS,
) -> dict[str, QuantizedTensor]:
    """QuantizedTensor of every weight and bias of a predictor's state dict; its output scale is left out."""
    return {
        name: quantize(state[name], codes, limit)
        for name, (codes, limit) in predictor_codes(state, config, steps).items()}


def rounded_predictor(
        state: Mapping[str, Tensor], config: QuantizationConfig, steps: StepCodes = NO_STEPS) -> dict[str, Tensor]:
    """Weights and biases as they will be read from the artifact. Differentiable as if nothing were rounded."""
    return {
        name: rounded(state[name], codes, limit)
        for name, (codes, limit) in predictor_codes(state, config, steps).items()}


def leaning_to_zero(tensor: Tensor, codes: Tensor, part: float) -> Tensor:
    """A tensor's integers times their step sizes. Numbers up to 0.5 + ``part`` of one off are rounded towards zero."""
    scaled = tensor / step_sizes(codes)
    return scaled.sign() * (scaled.abs() + 0.5 - part).floor().clamp(min=0) * step_sizes(codes)


def leaning_to_exact(values: Tensor, exact: Tensor, codes: Tensor | None) -> Tensor:
    """Rounded values, moved towards the exact ones by up to ``LEAN`` of the way to the next integer, so that they still
    round to the same ones. Values between integers, which were trained already, stay as they are, as all do without
    step sizes."""
    if codes is None:
        return values
    step = step_sizes(codes).to(values)
    on_grid = (values - (values / step).round() * step).abs() < ON_GRID * step
    return torch.where(on_grid, values + LEAN * torch.clamp(exact - values, -step / 2, step / 2), values)


def stored_predictor(predictor: Predictor, storage: StorageConfig, steps: StepCodes = NO_STEPS) -> Predictor:
    """The predictor that a reader of the artifact will have: a float32 copy, rounded as storage rounds."""
    stored = copy.deepcopy(predictor)
    state = predictor.state_dict()
    if storage.quantization:
        state.update(rounded_predictor(state, storage.quantization, steps))
    else:
        state = predictor_floats(state, storage.dtype)
    stored.load_state_dict(state)
    return stored.requires_grad_(False).eval()


def predictor_floats(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """A predictor's state dict as floats of a type; output scales, which this could turn to zero, stay float32."""
    return {name: tensor if name == OUTPUT_SCALE else tensor.to(getattr(torch, dtype))
            for name, tensor in state.items()}


def code_for_bits(weight: Tensor, bits: float) -> Tensor:
    """Step size of a whole weight, for an entropy of about ``bits`` if it is normally distributed: a code []."""
    rms = as_float64(weight.detach()).square().mean().sqrt()
    return torch.maximum(step_codes(rms * 2 ** (NORMAL_ENTROPY - bits)).to(weight.device), finest_code(weight))


def finest_code(weight: Tensor) -> Tensor:
    """The smallest step size with which all integers of a rounded weight are within the limit: a code []."""
    return step_codes(weight.detach().abs().amax() / ROUNDED_LIMIT, up=True)


def quantize(tensor: Tensor, codes: Tensor, limit: int = LIMIT) -> QuantizedTensor:
    """Integers of a tensor with step sizes [] or [R, 1, ...], up to ``limit``.

    They are int32, for a weight's own dtype, such as float16, could not hold them.
    """
    return QuantizedTensor((tensor.detach().float() / step_sizes(codes)).clamp(-limit, limit).round().int(), codes)


def rounded(tensor: Tensor, codes: Tensor, limit: int = LIMIT) -> Tensor:
    """A tensor's integers times their step sizes. Gradients pass the rounding, and stop beyond the limit."""
    return _rounded_by(tensor, step_sizes(codes), limit)


def _rounded_by(tensor: Tensor, steps: Tensor, limit: int) -> Tensor:
    scaled = (tensor / steps).clamp(-limit, limit)
    return (scaled + (scaled.round() - scaled).detach()) * steps


def _split_like(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A flat tensor as tensors of these names and shapes. Only those have gradients that their models do."""
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: (part if tensor.requires_grad else part.detach()).view_as(tensor)
            for (name, tensor), part in zip(like.items(), parts)}


def stored_rounded(
        rounded_weights: Mapping[str, Tensor],
        steps: StepCodes,
        storage: StorageConfig,
) -> dict[str, Tensor]:
    """Rounded weights as a reader of the artifact will have them. Differentiable as if nothing were rounded."""
    if storage.quantization is None or not rounded_weights:
        return dict(rounded_weights)
    tensors = list(rounded_weights.values())
    flat = torch.cat([tensor.flatten().float() for tensor in tensors])
    sizes = step_sizes(torch.stack([steps[name].to(flat.device) for name in rounded_weights]))
    each = torch.cat([size.expand(tensor.numel()) for size, tensor in zip(sizes, tensors)])
    parts = _split_like(_rounded_by(flat, each, ROUNDED_LIMIT), rounded_weights)
    return {name: part.to(rounded_weights[name].dtype) for name, part in parts.items()}


def dequantize(integers: QuantizedTensor) -> Tensor:
    """The tensor that integers stand for, float32."""
    steps = step_sizes(integers.codes)
    return steps if integers.values is None else integers.values.float().mul_(steps)
