"""The size ledger: where the bytes of an artifact go. In config.json it is information alone (a dict of numbers)."""
import math
from collections.abc import Mapping

from torch import Tensor

from timm_sbs.artifact.files import CONFIG_NAME

__all__ = ['full_ledger', 'measured', 'shown']

PARTS = ('predictor', 'ordering', 'rounded', 'kept', 'frequencies', 'header', CONFIG_NAME)  # of both files


def measured(
        tensors: Mapping[str, Tensor], file_bytes: int, predictor_parameters: int, base_state: Mapping[str, Tensor],
) -> dict[str, int]:
    """The ledger as config.json has it: bytes of each part of model.safetensors that there is, and what they are
    compared with. ``base_state`` is the base model's state dict, on any device."""
    parts = {part: sum(tensor.nbytes for name, tensor in tensors.items() if name.split('.')[0] == part)
             for part in PARTS[:-2]}
    parts['header'] = file_bytes - sum(parts.values())
    distinct = {id(tensor): tensor for tensor in base_state.values()}.values()  # shared ones have several names
    values = sum(math.prod(tensor.shape) for tensor in distinct if tensor.is_floating_point())
    found = {**parts, 'predictor_parameters': predictor_parameters, 'original_values': values}
    return {name: size for name, size in found.items() if size}


def full_ledger(found: Mapping[str, int], config_bytes: int) -> dict[str, int]:
    """What :func:`measured` has found, with the size of config.json: each of ``PARTS``, ``total`` (their sum),
    ``predictor_parameters``, ``original_values`` (numbers in the base model's state dict) and ``original`` (bytes of
    these in float32)."""
    parts = {**{part: found.get(part, 0) for part in PARTS}, CONFIG_NAME: config_bytes}
    values = found.get('original_values', 0)
    return {**parts, 'total': sum(parts.values()), 'predictor_parameters': found.get('predictor_parameters', 0),
            'original_values': values, 'original': 4 * values}


def shown(ledger: Mapping[str, int]) -> dict[str, int]:
    """The parts that there are, by the names that users read."""
    return {'stored' if part == 'kept' else part: ledger[part] for part in PARTS if ledger[part]}
