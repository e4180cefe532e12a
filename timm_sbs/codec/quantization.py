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
    'QuantizedTensor', 'StepCodes', 'layer_names', 'predictor_codes', 'dequantize', 'quantize',
    'leaning_to_exact', 'leaning_to_zero', 'rounded', 'rounded_predictor', 'stored_predictor', 'predictor_floats',
    'stored_rounded', 'code_for_bits', 'finest_code', 'step_codes', 'step_sizes', 'ROUNDED_LIMIT', 'OUTPUT_SCALE',
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
LIMIT, BIAS_LIMIT = 4095, 127  # largest integers of a predictor's weights and biases
ROUNDED_LIMIT = 32767  # of a rounded weight: a stem has few weights and long tails, and may have small step sizes
ON_GRID = 1e-3  # of a step size: so near to an integer is one
# Of a step size or a variance: 2^-40 stands for 0, and 2^(127 15/16) is the largest in float32.
SMALLEST_CODE, LARGEST_CODE = -40 * STEPS_PER_OCTAVE, 128 * STEPS_PER_OCTAVE - 1


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A quantized tensor: ``integers * 2^(codes / 16)``, both int32.

    Shapes: R rows
        integers: the tensor's own shape
        codes [R, 1, ...] or []: one for each row or one for all
    """
    integers: Tensor
    codes: Tensor


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


def finest_code(tensor: Tensor, limit: int = ROUNDED_LIMIT) -> Tensor:
    """The smallest step size with which all integers of a tensor are within a limit: a code []."""
    return step_codes(tensor.detach().abs().amax() / limit, up=True)


def predictor_codes(
        state: Mapping[str, Tensor],
        config: QuantizationConfig,
        steps: StepCodes = NO_STEPS,
) -> dict[str, tuple[Tensor, int]]:
    """Step codes and largest integer of every weight and bias of a predictor, given those codes that are fixed."""
    names = layer_names(state)
    if len(names) != len(config.layer_bits):
        raise ConfigError(
            f'quantization.layer_bits has {len(config.layer_bits)} entries, but the predictor has {len(names)} layers.')
    codes = {}
    for name, bits in zip(names, config.layer_bits):
        weight, bias, known = state[f'{name}.weight'], state[f'{name}.bias'], steps.get(f'{name}.weight')
        codes[f'{name}.weight'] = _row_codes(weight, bits) if known is None else known.to(weight.device), LIMIT
        codes[f'{name}.bias'] = finest_code(bias, BIAS_LIMIT), BIAS_LIMIT
    return codes


def rounded_predictor(
        state: Mapping[str, Tensor], config: QuantizationConfig, steps: StepCodes = NO_STEPS) -> dict[str, Tensor]:
    """Weights and biases as they will be read from the artifact. Differentiable as if nothing were rounded."""
    return {
        name: rounded(state[name], codes, limit)
        for name, (codes, limit) in predictor_codes(state, config, steps).items()}


def leaning_to_zero(tensor: Tensor, codes: Tensor, part: float) -> Tensor:
    """A tensor's integers times their step sizes. Numbers up to 0.5 + ``part`` of one off are rounded towards zero."""
    steps = step_sizes(codes)
    scaled = tensor / steps
    return scaled.sign() * (scaled.abs() + 0.5 - part).floor().clamp(min=0) * steps


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


def quantize(tensor: Tensor, codes: Tensor, limit: int = LIMIT) -> QuantizedTensor:
    """Integers of a tensor with step sizes [] or [R, 1, ...], up to ``limit``.

    They are int32, for a weight's own dtype, such as float16, could not hold them.
    """
    return QuantizedTensor((tensor.detach().float() / step_sizes(codes)).clamp(-limit, limit).round().int(), codes)


def dequantize(quantized: QuantizedTensor) -> Tensor:
    """The tensor that integers stand for, float32."""
    return quantized.integers.float().mul_(step_sizes(quantized.codes))


def rounded(tensor: Tensor, codes: Tensor, limit: int = LIMIT) -> Tensor:
    """A tensor's integers times their step sizes. Gradients pass the rounding, and stop beyond the limit."""
    steps = step_sizes(codes)
    scaled = (tensor / steps).clamp(-limit, limit)
    return (scaled + (scaled.round() - scaled).detach()) * steps


def stored_rounded(
        rounded_weights: Mapping[str, Tensor], steps: StepCodes, storage: StorageConfig) -> dict[str, Tensor]:
    """Rounded weights as a reader of the artifact will have them. Differentiable as if nothing were rounded."""
    if storage.quantization is None:
        return dict(rounded_weights)
    return {name: rounded(tensor.float(), steps[name].to(tensor.device), ROUNDED_LIMIT).to(tensor.dtype)
            for name, tensor in rounded_weights.items()}
