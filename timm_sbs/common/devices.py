"""Where a run computes, and how tensors get there."""
import os

import torch
from torch import Tensor

__all__ = ['moved', 'uses_accelerator']


def uses_accelerator() -> bool:
    """Whether a run computes on a GPU or the like: there is one, and ``accelerate launch --cpu`` does not forbid it."""
    forbidden = os.environ.get('ACCELERATE_USE_CPU', '').lower() in ('1', 'true', 'yes', 'y', 't', 'on')
    return torch.accelerator.is_available() and not forbidden


def moved(tensor: Tensor, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """A tensor on a device. Only CUDA goes on before it has arrived: elsewhere memory that is not pinned could be
    reused meanwhile."""
    return tensor.to(device, non_blocking=device.type == 'cuda', memory_format=memory_format)
