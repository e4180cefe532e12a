"""Sums and steps in float64, on devices that have it and on those that do not (Apple's MPS)."""
import torch
from torch import Tensor

__all__ = ['as_float64', 'float64_device', 'has_float64']


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64."""
    return device.type != 'mps'


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 for a device: there, or on the CPU if it cannot."""
    return device if has_float64(device) else torch.device('cpu')


def as_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, where it is if its device has that, else on the CPU. Moves nothing between CPU and CUDA.

    Results belong back on the tensor's device, with ``.to(tensor.device)`` after a dtype that it has.
    """
    return tensor.to(float64_device(tensor.device)).double()
