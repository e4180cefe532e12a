"""What happens to an image between its file and the network: timm's transforms, shifts, mixing, smaller sizes."""
import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms.functional import normalize

from timm_sbs.common.errors import SbsError, short_reason
from timm_sbs.common.tensors import moved
from timm_sbs.data.settings import ImageSettings

__all__ = [
    'ImageTransform', 'check_sizes', 'data_config_of', 'kept_random_states', 'mixed', 'resize', 'seed_of', 'size_at',
    'training_transform', 'validation_transform']

SMALL_IMAGE, SHIFT = 64, 4  # below so many pixels, images are shifted by up to so many instead of cropped
MULTIPLE = 32  # pixels, of heights in between: networks halve their feature maps up to five times


def seed_of(*numbers: int) -> int:
    """One seed for several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextlib.contextmanager
def kept_random_states(seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn within the block leaves the states of torch, numpy and Python as they were.

    Args:
        seed: What they are seeded with for the block; None: they go on as they are.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    if seed is not None:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def data_config_of(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """timm's data config, with a mean and a standard deviation for each channel.

    Those of three channels, which timm leaves to a network that was created with ``in_chans=1``, are averaged.

    Example:
        >>> data_config_of({'input_size': (1, 32, 32), 'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.2, 0.2)})['mean']
        (0.5,)
    """
    config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    channels = config['input_size'][0]
    for name in ('mean', 'std'):
        values = config[name]
        if len(values) != channels:
            config[name] = (sum(values) / len(values),) * channels
    return config


@dataclass(frozen=True)
class ImageTransform:
    """What is done to each image, and then to a whole batch: for small images, ten times as fast as one by one.

    Attributes:
        data_config: timm's: size, mean and standard deviation.
        single: PIL image -> uint8 [C, H, W].
        is_random: Whether ``single`` draws something.
        shift: Pixels by which the images of a batch are shifted at most, half of which are flipped too; 0: neither.
        border: How pixels that are shifted in are made, in the words of torch's pad: 'constant', black, or 'reflect'.
    """
    data_config: Mapping[str, Any]
    single: Callable[[Image.Image], Tensor] = transforms.PILToTensor()
    is_random: bool = False
    shift: int = 0
    border: str = 'constant'

    def batch(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Shift and flip each image at random, and normalise all.

        Args:
            images: uint8 [B, C, H, W], on any device.
            generator: On the CPU.

        Returns:
            float32 [B, C, H, W].
        """
        count, device = len(images), images.device
        if self.shift:
            top, left = (moved(torch.randint(2 * self.shift + 1, (count,), generator=generator), device)
                         for _ in range(2))
            height, width = images.shape[2:]
            padded = F.pad(images.float(), 4 * [self.shift], self.border)  # which does not reflect integers
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view
            images = windows[torch.arange(count, device=device), :, top, left]
            flips = moved(torch.rand(count, generator=generator) < 0.5, device)
            images = torch.where(flips[:, None, None, None], images.flip(3), images)
        mean, std = (list(self.data_config[name]) for name in ('mean', 'std'))
        return normalize(images.float().div_(255), mean, std, inplace=True)


def validation_transform(pretrained_cfg: Mapping[str, Any]) -> ImageTransform:
    """timm's resizing and cropping of validation images."""
    config = data_config_of(pretrained_cfg)
    names = ('input_size', 'interpolation', 'mean', 'crop_pct', 'crop_mode')
    return ImageTransform(config, create_transform(**{name: config[name] for name in names}, normalize=False))


def training_transform(settings: ImageSettings, pretrained_cfg: Mapping[str, Any]) -> ImageTransform:
    """timm's random crops and flips of training images, or shifts and flips of small ones."""
    if settings.no_aug:
        return validation_transform(pretrained_cfg)
    config = data_config_of(pretrained_cfg)
    size = config['input_size'][1:]
    if max(size) < SMALL_IMAGE:
        single = transforms.Compose([transforms.Resize(size), transforms.PILToTensor()])
        return ImageTransform(config, single, shift=SHIFT)
    single = create_transform(
        config['input_size'], is_training=True, scale=settings.scale,
        color_jitter=None,  # type: ignore[arg-type]  # timm's way to have none
        interpolation=config['interpolation'], normalize=False)
    return ImageTransform(config, single, is_random=True)


def mixed(images: Tensor, mixup: float, seed: int) -> Tensor:
    """Mix each image with another of the batch, as mixup does (arXiv 1710.09412).

    Original and generated model see the same mixture, so that no labels are needed.

    Args:
        images: [B, C, H, W].
        mixup: The share of the first image is drawn from Beta(mixup, mixup); 0: images stay as they are.
        seed: Of the share.
    """
    return images.flip(0).lerp_(images, np.random.default_rng(seed).beta(mixup, mixup)) if mixup else images


def size_at(sizes: tuple[int, ...], number: int, count: int) -> int:
    """Height of the images of a batch: from the first size to the last, in multiples of 32 pixels. Distillation learns
    most of what it learns from small images, in a fraction of the time.

    Example:
        >>> [size_at((128, 224), number, 4) for number in range(4)]
        [128, 160, 192, 224]
    """
    first, last = sizes[0], sizes[-1]
    if number == 0 or number >= count - 1:
        return last if number else first
    between = first + (last - first) * number / (count - 1)
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
            raise SbsError(f'The model cannot be run on images of --train-size {height}: {short_reason(e)}.') from e
