"""The optimizer of all phases."""
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from timm_sbs.training.options.settings import PhaseSettings

__all__ = ['make_optimizer', 'set_lr']


def make_optimizer(
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        settings: PhaseSettings,
) -> torch.optim.Optimizer:
    """Adam, as one kernel for all tensors: a step has dozens of tensors of a few numbers.

    Args:
        parameters: Or groups of them as torch's optimizers take them; 'lr_scale', as timm calls it, is a factor of the
            learning rate of a group.
        settings: Learning rate and betas.
    """
    return torch.optim.Adam([*parameters], lr=settings.lr, betas=settings.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group['lr'] = lr * group.get('lr_scale', 1.)
