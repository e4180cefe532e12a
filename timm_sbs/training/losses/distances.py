"""Losses of distillation, named as in NeRN (arXiv 2212.13554)."""
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ['distillation_loss', 'feature_loss']


def distillation_loss(logits: Tensor, original_logits: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the original model's softened predictions (Hinton et al., arXiv 1503.02531).

    The factor temperature^2 keeps the size of gradients independent of the temperature.

    Shapes:
        logits [B, classes], original_logits [B, classes] -> scalar, the mean over the batch
    """
    log_student = torch.log_softmax(logits.float() / temperature, dim=1)
    log_original = torch.log_softmax(original_logits.float() / temperature, dim=1)
    return F.kl_div(log_student, log_original, reduction='batchmean', log_target=True) * temperature ** 2


def feature_loss(maps: Sequence[Tensor], original_maps: Sequence[Tensor]) -> Tensor:
    """Relative squared error of feature maps, the mean over maps.

    Our choice: unlike the plain squared error it weighs early and late maps alike.
    """
    errors = [
        (a.float() - b.float()).square().sum() / b.float().square().sum().clamp(min=1e-12)
        for a, b in zip(maps, original_maps)]
    return torch.stack(errors).mean()
