"""How timm makes an evaluated network's input of an image: what metadata, web pages and transformers.js are told."""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import resolve_data_config

__all__ = ['ImageInput', 'image_input', 'why_no_photographs']

FILTERS = ('bilinear', 'bicubic', 'lanczos', 'box', 'hamming')  # that programs which resize photographs have
MOST_SIDE = 4096  # pixels of a resized photograph


@dataclass(frozen=True)
class ImageInput:
    """How an image becomes the input.

    Attributes:
        channels: Of the input, with its height and width: it is cut out of the middle of a resized image.
        crop_pct: Size of the input, relative to that of the resized image.
        crop_mode: 'squash' where an image does not keep its proportions.
        interpolation: Name of the filter.
        mean: Of each channel, with ``std``.
    """
    channels: int
    height: int
    width: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def normalizable(self) -> bool:
        """Whether each channel has a mean, and a standard deviation by which numbers can be divided."""
        return len(self.mean) == len(self.std) == self.channels and 0 not in self.std

    @property
    def squash(self) -> bool:
        return self.crop_mode == 'squash'

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the resized image; where it keeps its proportions, it is as small as covers them."""
        return math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)


def image_input(pretrained_cfg: Mapping[str, Any]) -> ImageInput:
    """How timm evaluates the network of a description.

    Example:
        >>> image_input({'input_size': (3, 224, 224), 'crop_pct': .875}).resized
        (256, 256)
    """
    found = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    channels, height, width = found['input_size']
    mean, std = (tuple(found[name]) * (channels if len(found[name]) == 1 else 1) for name in ('mean', 'std'))
    return ImageInput(
        channels, height, width, found['crop_pct'], found['crop_mode'], found['interpolation'], mean, std)


def why_no_photographs(images: ImageInput, num_classes: int, results: Mapping[str, Any]) -> str | None:
    """What keeps programs without timm from classifying photographs as timm does it, or None if nothing does."""
    if num_classes < 2:
        return f'it has no classes to choose from (num_classes is {num_classes})'
    if results.get('task') == 'multi-label':
        return 'an image may have several of its labels'
    if images.channels != 3 or not images.normalizable:
        return f'it takes images of {images.channels} channels, with mean {images.mean} and std {images.std}'
    if not (0 < images.crop_pct <= 1 and max(images.height, images.width) / images.crop_pct <= MOST_SIDE):
        return f'crop_pct is {images.crop_pct}, but must be at most 1, and crop from at most {MOST_SIDE:,} pixels'
    if images.interpolation not in FILTERS:
        return f"interpolation is '{images.interpolation}', but must be one of {', '.join(FILTERS)}"
    if images.crop_mode not in ('center', 'squash'):
        return f"crop_mode is '{images.crop_mode}', but must be center or squash"
    return None
