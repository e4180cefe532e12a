"""What images go through, in parts: what is the same at every look, and what is drawn for each batch."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import create_transform
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional as F

from timm_sbs.common.devices import moved
from timm_sbs.common.timm_private import MaybeToTensor
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.pictures import Transform

__all__ = ['BatchTransform', 'ImageSteps', 'plain_steps', 'training_steps']

SMALL_IMAGE = 64  # pixels; below, training images are shifted instead of being cropped and resized


class BatchTransform:
    """Shifts, flips and normalises a whole batch: the same distribution as torchvision's transforms of one image.

    torchvision's own transforms would draw once for a batch, and one image at a time is ten times slower.
    """

    def __init__(self, steps: list[Any]) -> None:
        """
        Args:
            steps: Transforms of one image, from which parameters are taken.
        """
        self.padding, self.hflip = 0, 0.
        self.mean: list[float] = [0.]
        self.std: list[float] = [1.]
        for step in steps:
            if isinstance(step, transforms.RandomCrop):
                self.padding = step.padding
            elif isinstance(step, transforms.RandomHorizontalFlip):
                self.hflip = step.p
            elif isinstance(step, transforms.Normalize):
                self.mean, self.std = (torch.as_tensor(values).tolist() for values in (step.mean, step.std))

    def augmented(self, images: Tensor, generator: torch.Generator, part: slice, total: int) -> Tensor:
        """Shift and flip each image by a draw of its own.

        Args:
            images: uint8 [B, C, H, W], on any device.
            generator: Of the draws, on the CPU.
            part: Which images of the global batch these are.
            total: Images of the global batch, for all of which is drawn, so that processes need not ask each other.

        Returns:
            uint8 [B, C, H, W]; what is shifted in is 0, which is black.
        """
        count, device = len(images), images.device

        def mine(drawn: Tensor) -> Tensor:
            return moved(drawn[part][:count], device)

        if self.padding:
            top, left = (
                mine(torch.randint(2 * self.padding + 1, (total,), generator=generator)) for _ in range(2))
            height, width = images.shape[2:]
            padded = torch.nn.functional.pad(images, 4 * [self.padding])
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: [B, C, tops, lefts, H, W]
            images = windows[torch.arange(count, device=device), :, top, left]
        if self.hflip:
            flips = mine(torch.rand(total, generator=generator) < self.hflip)
            images = torch.where(flips[:, None, None, None], images.flip(3), images)
        return images

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] as float32, bit for bit as torchvision's ToTensor and Normalize have it."""
        return F.normalize(images.float().div_(255), self.mean, self.std, inplace=True)


@dataclass(frozen=True)
class ImageSteps:
    """The way of an image from its file to a network.

    Attributes:
        whole: All steps, for one image: PIL image -> float32 [C, H, W].
        fixed: What is the same at every look: PIL image -> uint8 [C, H, W] of the model's size. None if the first step
            is drawn already.
        batch: What is done for a whole batch after ``fixed``.
    """
    whole: Transform
    fixed: Transform | None = None
    batch: BatchTransform | None = None

    @property
    def first(self) -> Transform:
        """What a data set does when it reads an image, if no image is kept in memory."""
        return self.fixed or self.whole


def _split(steps: list[Any], fixed: int) -> ImageSteps:
    """Steps of which the first ``fixed`` draw nothing, and lead to the model's size."""
    whole, rest = transforms.Compose(steps), steps[fixed:]
    if not fixed:
        return ImageSteps(whole)
    first = transforms.Compose([*steps[:fixed], transforms.PILToTensor()])
    return ImageSteps(whole, first, BatchTransform(rest))


def plain_steps(data_config: Mapping[str, Any]) -> ImageSteps:
    """What validation images go through: timm's resizing and cropping."""
    steps = create_transform(
        tuple(data_config['input_size']), interpolation=data_config['interpolation'], mean=data_config['mean'],
        std=data_config['std'], crop_pct=data_config['crop_pct'], crop_mode=data_config.get('crop_mode')).transforms
    return _split(steps, next(place for place, step in enumerate(steps) if isinstance(step, MaybeToTensor)))


def training_steps(settings: DataSettings, data_config: Mapping[str, Any]) -> ImageSteps:
    """What training images go through: timm's augmentation, or shifts instead of its random crops."""
    if settings.no_aug:
        return plain_steps(data_config)
    size = tuple(data_config['input_size'])
    steps = create_transform(
        size, is_training=True, scale=settings.scale, hflip=settings.hflip,
        color_jitter=None,  # type: ignore[arg-type]  # timm's way to have none
        interpolation=data_config['interpolation'], mean=data_config['mean'], std=data_config['std']).transforms
    usual = 4 if max(size[1:]) < SMALL_IMAGE else 0
    padding = usual if settings.crop_padding is None else settings.crop_padding
    if not padding:
        return _split(steps, 0)
    shift = [transforms.Resize(size[1:]), transforms.RandomCrop(size[1:], padding=padding)]
    return _split([*shift, *steps[1:]], 1)
