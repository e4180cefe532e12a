"""The size ledger: where the bytes of model.safetensors go."""
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from timm_sbs.common.results import PARTS, Ledger

__all__ = ['PARTS', 'ledger', 'num_bytes']


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the values of all tensors, on the meta device too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def ledger(
        tensors: Mapping[str, Tensor],
        file_bytes: int,
        predictor: nn.Module,
        base_state: Mapping[str, Tensor],
) -> Ledger:
    """Bytes of each part of a file, and what they are compared with.

    Args:
        tensors: The tensors of the file.
        file_bytes: Size of the file.
        predictor: The predictor in it.
        base_state: The base model's state dict, on any device.
    """
    def part(name: str) -> int:
        return num_bytes({k: v for k, v in tensors.items() if k == name or k.startswith(f'{name}.')})

    parts = {name: part(name) for name in PARTS[:-1]}
    parts['header'] = file_bytes - sum(parts.values())
    distinct = {id(tensor): tensor for tensor in base_state.values()}.values()  # shared ones have several names
    values = sum(math.prod(tensor.shape) for tensor in distinct if tensor.is_floating_point())
    original = values * torch.finfo(torch.float32).bits // 8
    return Ledger(
        **parts, file=file_bytes, predictor_parameters=sum(p.numel() for p in predictor.parameters()),
        original_values=values, original=original, percent=round(100 * file_bytes / original, 2),
        bits_per_weight=round(8 * file_bytes / values, 3))
