"""Losses of reconstruction and of feature maps, named as in NeRN (arXiv 2212.13554)."""
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ['reconstruction_loss', 'feature_loss']


def reconstruction_loss(kernels: Tensor, targets: Tensor, target_rms: Tensor) -> Tensor:
    """Mean squared error of kernels [N, T], in units of the mean square of all targets.

    Over all kernels this is the relative error: squared error over squared norm.
    """
    return F.mse_loss(kernels / target_rms, targets / target_rms)


def feature_loss(maps: Sequence[Tensor], original_maps: Sequence[Tensor]) -> Tensor:
    """Relative squared error of feature maps, the mean over maps.

    Our choice: unlike the plain squared error it weighs early and late maps alike.
    """
    errors = [
        (a.float() - b.float()).square().sum() / b.float().square().sum().clamp(min=1e-12)
        for a, b in zip(maps, original_maps)]
    return torch.stack(errors).mean()
