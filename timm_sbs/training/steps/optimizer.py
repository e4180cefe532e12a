"""Optimizers by timm's names."""
from collections.abc import Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from timm_sbs.common.errors import ConfigError, short_reason
from timm_sbs.training.options.settings import PhaseSettings

__all__ = ['make_optimizer', 'set_lr']

FUSED = 'adam', 'adamw'  # of torch, which has them as one kernel: a step has dozens of tensors of a few numbers


def make_optimizer(
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        settings: PhaseSettings,
) -> torch.optim.Optimizer:
    """The optimizer of a phase.

    Args:
        parameters: Or groups of them as torch's optimizers take them; 'lr_scale', as timm calls it, is a factor of the
            learning rate of a group.
        settings: Learning rate and so on.

    Raises:
        ConfigError: timm has no such optimizer, or it does not take these settings.
    """
    if settings.opt.lower().removeprefix('lookahead_') not in list_optimizers():
        raise ConfigError(f"timm has no optimizer '{settings.opt}'. List them with timm.optim.list_optimizers().")
    options: dict[str, Any] = {} if settings.betas is None else {'betas': settings.betas}
    if settings.opt.lower() in FUSED:
        options['fused'] = True
    try:
        return create_optimizer_v2(
            [*parameters], settings.opt, lr=settings.lr, weight_decay=settings.weight_decay, **options)
    except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as e:
        raise ConfigError(f"Optimizer '{settings.opt}' cannot be made: {short_reason(e, 200)}") from e


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group['lr'] = lr * group.get('lr_scale', 1.)
