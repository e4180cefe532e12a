"""What images go through, in parts: what is the same at every look, and what is drawn for each image or each batch."""
from collections.abc import Callable, Mapping
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

__all__ = ['BatchTransform', 'Drawn', 'ImageSteps', 'plain_steps', 'training_steps']

Drawn = Callable[[Tensor], Tensor]  # uint8 [C, H, W] -> float32 [C, H, W], by chance

SMALL_IMAGE = 64  # pixels; below, training images are shifted instead of being cropped and resized
_FOR_BATCHES = (transforms.RandomCrop, transforms.RandomHorizontalFlip, transforms.RandomVerticalFlip, MaybeToTensor,
                transforms.Normalize)


class BatchTransform:
    """Shifts, flips and normalises a whole batch: the same distribution as torchvision's transforms of one image.

    torchvision's own transforms would draw once for a batch, and one image at a time is ten times slower.
    """

    def __init__(self, steps: list[Any]) -> None:
        """
        Args:
            steps: Transforms of one image, of the types in ``_FOR_BATCHES``, from which parameters are taken.
        """
        self.padding, self.hflip, self.vflip = 0, 0., 0.
        self.mean: list[float] = [0.]
        self.std: list[float] = [1.]
        for step in steps:
            if isinstance(step, transforms.RandomCrop):
                self.padding = step.padding
            elif isinstance(step, transforms.RandomHorizontalFlip):
                self.hflip = step.p
            elif isinstance(step, transforms.RandomVerticalFlip):
                self.vflip = step.p
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
        for probability, axis in ((self.hflip, 3), (self.vflip, 2)):
            if probability:
                flips = mine(torch.rand(total, generator=generator) < probability)
                images = torch.where(flips[:, None, None, None], images.flip(axis), images)
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
        each: What is drawn for each image after ``fixed``: uint8 [C, H, W] -> float32 [C, H, W]. None if ``batch`` does
            it.
        batch: What can be done for a whole batch after ``fixed``, instead of ``each``.
    """
    whole: Transform
    fixed: Transform | None = None
    each: Drawn | None = None
    batch: BatchTransform | None = None

    @property
    def first(self) -> Transform:
        """What a data set does when it reads an image, if no image is kept in memory."""
        return self.fixed if self.batch and self.fixed else self.whole


def _split(steps: list[Any], fixed: int) -> ImageSteps:
    """Steps of which the first ``fixed`` draw nothing, and lead to the model's size."""
    whole, rest = transforms.Compose(steps), steps[fixed:]
    if not fixed:
        return ImageSteps(whole)
    first = transforms.Compose([*steps[:fixed], transforms.PILToTensor()])
    if all(type(step) in _FOR_BATCHES for step in rest):
        return ImageSteps(whole, first, batch=BatchTransform(rest))
    return ImageSteps(whole, first, each=transforms.Compose([transforms.ToPILImage(), *rest]))


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
        size, is_training=True, scale=settings.scale, ratio=settings.ratio, hflip=settings.hflip, vflip=settings.vflip,
        color_jitter=settings.color_jitter or None,  # type: ignore[arg-type]  # None: timm's way to have none
        auto_augment=settings.aa, re_prob=settings.reprob,
        interpolation=data_config['interpolation'], mean=data_config['mean'], std=data_config['std']).transforms
    padding = settings.crop_padding
    if padding is None:
        padding = 4 if max(size[1:]) < SMALL_IMAGE else 0
    if not padding:
        return _split(steps, 0)
    shift = [transforms.Resize(size[1:]), transforms.RandomCrop(size[1:], padding=padding)]
    return _split([*shift, *steps[1:]], 1)
