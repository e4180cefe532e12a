"""What happens to an image between its file and the network: timm's transforms, and shifts of small images."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torch.nn.functional import pad
from torchvision import transforms
from torchvision.transforms.functional import normalize

from timm_sbs.common.tensors import moved
from timm_sbs.data.settings import ImageSettings

__all__ = ['ImageTransform', 'data_config_of', 'training_transform', 'validation_transform']

SMALL_IMAGE, SHIFT = 64, 4  # below so many pixels, images are shifted by up to so many instead of cropped


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
        single: PIL image -> uint8 [C, H, W].
        data_config: timm's: size, mean and standard deviation.
        is_random: Whether ``single`` draws something.
        padding: Pixels by which the images of a batch are shifted at most.
        hflip: Probability that an image of a batch is flipped.
    """
    single: Callable[[Image.Image], Tensor]
    data_config: Mapping[str, Any]
    is_random: bool = False
    padding: int = 0
    hflip: float = 0.

    def batch(
            self, images: Tensor, generator: torch.Generator | None = None, process_index: int = 0,
            num_processes: int = 1) -> Tensor:
        """Shift and flip each image at random, and normalise all.

        Args:
            images: This process's part of a global batch: uint8 [B, C, H, W], on any device.
            generator: On the CPU. It draws for the global batch, of which each process takes its part.
            process_index: Of this process.
            num_processes: Of the run.

        Returns:
            float32 [B, C, H, W]. Pixels that are shifted in are black.
        """
        count, device = len(images), images.device

        def mine(drawn: Tensor) -> Tensor:
            return moved(drawn[process_index * count:][:count], device)

        total = num_processes * count
        if self.padding:
            top, left = (mine(torch.randint(2 * self.padding + 1, (total,), generator=generator)) for _ in range(2))
            height, width = images.shape[2:]
            windows = pad(images, 4 * [self.padding]).unfold(2, height, 1).unfold(3, width, 1)  # a view
            images = windows[torch.arange(count, device=device), :, top, left]
        if self.hflip:
            flips = mine(torch.rand(total, generator=generator) < self.hflip)
            images = torch.where(flips[:, None, None, None], images.flip(3), images)
        mean, std = (list(self.data_config[name]) for name in ('mean', 'std'))
        return normalize(images.float().div_(255), mean, std, inplace=True)


def validation_transform(pretrained_cfg: Mapping[str, Any]) -> ImageTransform:
    """timm's resizing and cropping of validation images."""
    config = data_config_of(pretrained_cfg)
    names = ('input_size', 'interpolation', 'mean', 'crop_pct', 'crop_mode')
    return ImageTransform(create_transform(**{name: config[name] for name in names}, normalize=False), config)


def training_transform(settings: ImageSettings, pretrained_cfg: Mapping[str, Any]) -> ImageTransform:
    """timm's random crops and flips of training images, or shifts and flips of small ones."""
    if settings.no_aug:
        return validation_transform(pretrained_cfg)
    config = data_config_of(pretrained_cfg)
    height, width = config['input_size'][1:]
    padding = settings.crop_padding
    if padding is None:
        padding = SHIFT if max(height, width) < SMALL_IMAGE else 0
    if padding:
        single = transforms.Compose([transforms.Resize((height, width)), transforms.PILToTensor()])
        return ImageTransform(single, config, padding=padding, hflip=settings.hflip)
    single = create_transform(
        config['input_size'], is_training=True, scale=settings.scale, hflip=settings.hflip,
        color_jitter=None,  # type: ignore[arg-type]  # timm's way to have none
        interpolation=config['interpolation'], normalize=False)
    return ImageTransform(single, config, is_random=True)
