"""Helpers for tensors: float64 on devices with and without it, moves to a device, copies, names with a prefix."""
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ['as_float64', 'copied', 'float64_device', 'moved', 'with_prefix', 'without_prefix']

T = TypeVar('T')


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 for a device: there, or on the CPU for Apple's MPS, which has no float64."""
    return torch.device('cpu') if device.type == 'mps' else device


def as_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, on its own device if that has float64, else on the CPU.

    Results belong back on the tensor's device, with ``.to(tensor.device)`` after a dtype that it has.
    """
    return tensor.to(float64_device(tensor.device)).double()


def moved(tensor: Tensor, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """A tensor on a device. Only CUDA does not wait for its arrival: elsewhere memory that is not pinned could be
    reused meanwhile."""
    return tensor.to(device, non_blocking=device.type == 'cuda', memory_format=memory_format)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, with each other or with the tensors."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """Those of the tensors, or of what else has names, whose names have the prefix, without it."""
    return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
