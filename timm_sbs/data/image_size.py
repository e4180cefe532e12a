"""Smaller images at first: distillation learns most of what it learns from them, in a fraction of the time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.errors import SbsError, short_reason

__all__ = ['size_at', 'resize', 'check_sizes']

SIZES_CHECKED = 64  # steps, more than there are multiples of SIZE_STEP between any two sizes
SIZE_STEP = 32  # pixels; sizes in between are multiples of it, for networks halve their maps up to five times


def size_at(sizes: tuple[int, int], step: int, steps: int) -> int:
    """Height of the images at a step, counted from 0: from the first to the second size, in multiples of 32 pixels.

    Example:
        >>> [size_at((128, 224), step, 4) for step in range(4)]
        [128, 160, 192, 224]
    """
    first, last = sizes
    if step in (0, steps - 1):
        return last if step else first
    between = first + (last - first) * step / (steps - 1)
    return min(max(round(between / SIZE_STEP) * SIZE_STEP, min(sizes)), max(sizes))


def resize(images: Tensor, height: int) -> Tensor:
    """Images [B, C, H, W] with another height, and the width in proportion."""
    if height == images.shape[2]:
        return images
    width = round(images.shape[3] * height / images.shape[2])
    return F.interpolate(images, (height, width), mode='bilinear', antialias=True)


@torch.no_grad()
def check_sizes(original: nn.Module, sizes: tuple[int, int], input_size: tuple[int, int, int]) -> None:
    """Raises SbsError where the original cannot be run on images of a size, before training relies on it."""
    for height in sizes:
        if not 0 < height <= input_size[1]:
            raise SbsError(
                f'--train-size {height} must be from 1 to {input_size[1]}, the height that the model expects.')
    between = {size_at(sizes, step, SIZES_CHECKED) for step in range(SIZES_CHECKED)}
    for height in sorted(between):
        try:
            original(resize(torch.zeros(1, *input_size, device=next(original.parameters()).device), height))
        except Exception as e:
            reason = short_reason(e, 200)
            which = height if height in sizes else f'{sizes[0]} {sizes[1]}, which passes {height}'
            raise SbsError(f'The model cannot be run on images of --train-size {which}: {reason}. Leave the flag '
                           f'out.') from e
