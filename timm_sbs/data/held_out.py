"""Training images that are held out: no step is taken on them, so that they can choose which artifact is kept."""
from typing import Any

import torch
from torch.utils.data import IterableDataset

from timm_sbs.common.errors import ConfigError

__all__ = ['LEAST_IMAGES', 'split_places', 'part_of']

SEED = 250_907_373  # of the choice, the same in every run, whatever its own seed is
PART, MOST, FEWEST = 10, 2_000, 10  # a tenth of the images, at most 2,000, and none where that is fewer than 10
LEAST_IMAGES = PART * FEWEST  # of which some are held out without being asked for


def split_places(count: int, holdout_images: int | None) -> tuple[list[int], list[int]]:
    """Places of the images to train on, and of those that are held out, both ascending.

    Args:
        count: Images of the data set.
        holdout_images: How many are held out; None: a tenth, at most 2,000, and none of fewer than 100.

    Raises:
        ConfigError: Nothing would be left to train on.

    Example:
        >>> training, held_out = split_places(50_000, None)
        >>> len(training), len(held_out)
        (48000, 2000)
    """
    wanted = holdout_images
    if wanted is None:
        wanted = min(count // PART, MOST) if count >= LEAST_IMAGES else 0
    if wanted >= count:
        raise ConfigError(f'--holdout-images {wanted} leaves none of {count} training image(s) to train on.')
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED)).tolist()
    return sorted(order[wanted:]), sorted(order[:wanted])


def part_of(dataset: Any, holdout_images: int | None, held_out: bool = False) -> Any:
    """The :class:`Pictures` to train on, or those that are held out. A stream is whole, and holds none out."""
    if isinstance(dataset, IterableDataset):
        return None if held_out else dataset
    training, others = split_places(len(dataset), holdout_images)
    if held_out:
        return dataset.part(others) if others else None
    return dataset.part(training) if others else dataset
