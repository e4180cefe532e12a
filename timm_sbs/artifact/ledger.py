"""The size ledger: where the bytes of an artifact go. In config.json it is information alone (a dict of numbers)."""
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from timm_sbs.common.results import number

__all__ = ['PARTS', 'measured', 'num_bytes', 'sizes']

PARTS = ('predictor', 'ordering', 'rounded', 'kept', 'frequencies', 'header')  # of model.safetensors
_FLOAT_BYTES = torch.finfo(torch.float32).bits // 8


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the values of all tensors, on the meta device too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def measured(
        tensors: Mapping[str, Tensor], file_bytes: int, predictor_parameters: int, base_state: Mapping[str, Tensor],
) -> dict[str, int]:
    """The ledger as config.json has it: bytes of each part that there is, and what they are compared with.

    Args:
        tensors: The tensors of the file.
        file_bytes: Size of the file.
        predictor_parameters: Parameters of the predictor in it.
        base_state: The base model's state dict, on any device.
    """
    parts = {part: num_bytes({name: tensor for name, tensor in tensors.items() if name.split('.')[0] in (
        part, f'{part}_steps')}) for part in PARTS[:-1]}
    parts['header'] = file_bytes - sum(parts.values())
    distinct = {id(tensor): tensor for tensor in base_state.values()}.values()  # shared ones have several names
    values = sum(math.prod(tensor.shape) for tensor in distinct if tensor.is_floating_point())
    found = {**parts, 'predictor_parameters': predictor_parameters, 'original_values': values}
    return {name: size for name, size in found.items() if size}


def sizes(ledger: Mapping[str, Any]) -> dict[str, int]:
    """All numbers of a ledger: those of each of ``PARTS``, ``file`` (their sum), ``predictor_parameters``,
    ``original_values`` (floating-point values of the base model's state dict) and ``original`` (bytes of these in
    float32). What is not recorded is 0."""
    found = {name: int(number(ledger, name) or 0) for name in (*PARTS, 'predictor_parameters', 'original_values')}
    return {**found, 'file': sum(found[part] for part in PARTS), 'original': found['original_values'] * _FLOAT_BYTES}
