"""Smaller images at first: distillation learns most of what it learns from them, in a fraction of the time."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.errors import SbsError, short_reason

__all__ = ['size_at', 'resize', 'check_sizes']

MULTIPLE = 32  # pixels, of heights in between: networks halve their feature maps up to five times


def size_at(sizes: tuple[int, ...], step: int, steps: int) -> int:
    """Height of the images at a step: from the first size to the last, in multiples of 32 pixels.

    Example:
        >>> [size_at((128, 224), step, 4) for step in range(4)]
        [128, 160, 192, 224]
    """
    first, last = sizes[0], sizes[-1]
    if step in (0, steps - 1):
        return last if step else first
    between = first + (last - first) * step / (steps - 1)
    return min(max(round(between / MULTIPLE) * MULTIPLE, min(sizes)), max(sizes))


def resize(images: Tensor, height: int) -> Tensor:
    """Images [B, C, H, W] with another height, and the width in proportion."""
    if height == images.shape[2]:
        return images
    width = round(images.shape[3] * height / images.shape[2])
    return F.interpolate(images, (height, width), mode='bilinear', antialias=True)


@torch.no_grad()
def check_sizes(original: nn.Module, sizes: tuple[int, ...], input_size: tuple[int, int, int]) -> None:
    """Raises SbsError if the original cannot be run on images of one of the heights, before training relies on it."""
    if max(sizes) > input_size[1]:
        raise SbsError(f"--train-size {max(sizes)} is larger than the model's images, {input_size[1]} pixels.")
    images = torch.zeros(1, *input_size, device=next(original.parameters()).device)
    for height in sorted({*sizes, *(size for size in range(0, max(sizes), MULTIPLE) if size > min(sizes))}):
        try:
            original(resize(images, height))
        except Exception as e:
            reason = short_reason(e, 200)
            raise SbsError(f'The model cannot be run on images of --train-size {height}: {reason}.') from e
