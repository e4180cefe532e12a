"""Losses of feature maps, named as in NeRN (arXiv 2212.13554)."""
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ['feature_loss']


def feature_loss(maps: Sequence[Tensor], original_maps: Sequence[Tensor]) -> Tensor:
    """Relative squared error of feature maps, the mean over maps.

    Our choice: unlike the plain squared error it weighs early and late maps alike.
    """
    errors = [
        (a.float() - b.float()).square().sum() / b.float().square().sum().clamp(min=1e-12)
        for a, b in zip(maps, original_maps)]
    return torch.stack(errors).mean()
