"""Features of kernels while a predictor is trained: kept where they are small, computed block by block where not."""
from typing import List, Union

import torch
from torch import Tensor

from timm_sbs.generate import GenerationPlan, TokenGroup

__all__ = ['KernelFeatures', 'kernel_features']

KEPT_BYTES = 256_000_000  # of a network's features: those of ResNet-56 take 48 MB, those of ResNet-50 would take 1.4 GB


class KernelFeatures:
    """Features [rows, F] of the places of a token group, on a device."""

    def __init__(self, plan: GenerationPlan, group: TokenGroup, device: torch.device, kept: bool) -> None:
        self._plan, self._group, self._device = plan, group, device
        self._kept = plan.features(group, device=device) if kept else None

    def __call__(self, rows: Union[slice, Tensor]) -> Tensor:
        """Features of some places: a slice, or indices on the CPU."""
        if self._kept is not None:
            return self._kept[rows if isinstance(rows, slice) else rows.to(self._device)]
        return self._plan.features(self._group, rows, self._device)


def kernel_features(plan: GenerationPlan, device: torch.device) -> List[KernelFeatures]:
    """Features of each token group of a plan. Together they keep at most 256 MB."""
    size = sum(group.num_places for group in plan.groups) * plan.config.feature_width * torch.float32.itemsize
    return [KernelFeatures(plan, group, device, size <= KEPT_BYTES) for group in plan.groups]
