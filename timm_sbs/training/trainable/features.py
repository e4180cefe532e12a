"""Features of kernels while a predictor is trained: kept where they are small, computed block by block where not."""

import torch
from torch import Tensor

from timm_sbs.common.tensors import float64_device
from timm_sbs.predictor.generator import Generator, TokenGroup

__all__ = ['KernelFeatures', 'kernel_features']

KEPT_BYTES = 256_000_000  # of a network's features: those of ResNet-56 take 48 MB, those of ResNet-50 would take 1.4 GB


class KernelFeatures:
    """Features [rows, F] of the positions of a token group, on the generator's device."""

    def __init__(self, generator: Generator, group: TokenGroup, kept: bool) -> None:
        self._generator, self.kept = generator, kept
        self._table = generator.features(group) if kept else group.coordinates.to(float64_device(generator.device))

    def __call__(self, rows: slice | Tensor) -> Tensor:
        """Features of some positions: a slice, or indices, which cost least on the generator's device."""
        found = self._table[rows if isinstance(rows, slice) else rows.to(self._table.device)]
        return found if self.kept else self._generator.encoded(found)


def kernel_features(generator: Generator) -> list[KernelFeatures]:
    """Features of each token group. Together they keep at most 256 MB."""
    positions = sum(group.num_positions for group in generator.groups)
    size = positions * generator.config.feature_width * torch.float32.itemsize
    return [KernelFeatures(generator, group, size <= KEPT_BYTES) for group in generator.groups]
