"""Layers of all kinds, and random statistics of them, for tests of losses and of rounding."""
import torch

from timm_sbs.training.losses.statistics import LayerStatistics
from timm_sbs.training.losses.weight_uses import Use

# Use and shape of a weight of six outputs.
KINDS = {
    'dense': (Use(1, 1, 12, 7), (6, 3, 2, 2)), 'blocks': (Use(1, 3, 4, 7), (6, 3, 2, 2)),
    'groups': (Use(3, 1, 8, 7), (6, 2, 2, 2)), 'groups and blocks': (Use(2, 2, 5, 7), (6, 10))}


def random_statistics(use: Use, outputs: int) -> LayerStatistics:
    roots = torch.randn(use.groups, use.blocks, use.size, 2 * use.size)
    return LayerStatistics(
        roots @ roots.mT, torch.randn(use.groups, use.blocks, use.size), torch.rand(outputs), torch.tensor(1.))
