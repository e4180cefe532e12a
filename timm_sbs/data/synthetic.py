"""Training images for users who have none: noise, and images drawn to match the original model's BatchNorm statistics.

What was measured on ResNet-20 (tests/benchmarks/data_free.py) is why there are these two: noise whose spectrum falls
like that of photographs teaches more than white noise, and a few hundred matched images far more than both.
"""
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from timm_sbs.common.distributed import share
from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.data.datasets import Sample
from timm_sbs.data.outputs import ClassOutputs, Outputs, outputs_of

__all__ = ['InversionSettings', 'NoiseImages', 'SyntheticImages', 'batch_norms', 'invert']

NOISE_PASS = 50_000  # images of one 'pass' over noise, which never repeats itself
GREY, COLOUR, CONTRAST = 1.0, 0.5, 0.9  # strength of noise common to the channels, of each one's own, and of the sum


@dataclass(frozen=True)
class InversionSettings:
    """How images are drawn to match BatchNorm statistics."""
    images: int = 512
    steps: int = 100  # of gradient descent on the pixels
    batch_size: int = 256
    lr: float = 0.1  # peak, in standard deviations of the normalised pixels
    label_weight: float = 0.1  # of the cross-entropy with a class drawn for each image


def _pixel_range(data_config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Normalised values of black and of white: [C, 1, 1] each."""
    mean, std = (torch.tensor(data_config[key]).view(-1, 1, 1) for key in ('mean', 'std'))
    return (0 - mean) / std, (1 - mean) / std


def _noise(count: int, data_config: Mapping[str, Any]) -> Tensor:
    """Noise whose amplitude falls with 1 / frequency, as that of photographs does (Field, 1987): [count, C, H, W]."""
    channels, height, width = data_config['input_size']
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    amplitude = 1 / frequency.clamp(min=1 / max(height, width))
    white = COLOUR * torch.randn(count, channels, height, width) + GREY * torch.randn(count, 1, height, width)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(height, width))
    noise = noise / noise.std(dim=(1, 2, 3), keepdim=True) * CONTRAST
    return noise.clamp(*_pixel_range(data_config))


class NoiseImages(Dataset[Sample]):
    """Noise with the spectrum of photographs, new each time. Labels are 0 and mean nothing."""

    def __init__(self, data_config: Mapping[str, Any]) -> None:
        self.data_config = dict(data_config)

    def __len__(self) -> int:
        return NOISE_PASS

    def __getitem__(self, index: int) -> Sample:
        return _noise(1, self.data_config)[0], 0


class SyntheticImages(Dataset[Sample]):
    """Given images [N, C, H, W], shifted by up to an eighth of their size and flipped at random."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index].float()
        height, width = image.shape[1:]
        up, left = height // 8, width // 8
        padded = F.pad(image[None], (left, left, up, up), mode='reflect')[0]
        top, start = int(torch.randint(2 * up + 1, ())), int(torch.randint(2 * left + 1, ()))
        image = padded[:, top:top + height, start:start + width]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return image.contiguous(), int(self.labels[index])


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """BatchNorm layers with stored statistics.

    Raises:
        SbsError: There are none.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    if not norms:
        raise SbsError(f'{type(model).__name__} has no BatchNorm statistics that images could match; use --data-free '
                       f'noise.')
    return norms


def _statistics_error(module: nn.BatchNorm2d, inputs: Tensor) -> Tensor:
    """How far mean and variance of a BatchNorm's input are from the stored ones, in units of the latter."""
    stored_mean, variance = module.get_buffer('running_mean'), module.get_buffer('running_var') + module.eps
    mean = inputs.mean(dim=(0, 2, 3))
    ratio = inputs.var(dim=(0, 2, 3), unbiased=False) / variance
    return ((mean - stored_mean).square() / variance).mean() + ratio.clamp(min=1e-4).log().square().mean()


@contextlib.contextmanager
def _statistics_errors(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which each pass through the model adds the errors of its BatchNorm layers."""
    errors: list[Tensor] = []

    def hook(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        errors.append(_statistics_error(module, inputs[0].float()))

    hooks = [norm.register_forward_pre_hook(hook) for norm in batch_norms(model)]
    try:
        yield errors
    finally:
        for handle in hooks:
            handle.remove()


def invert(
        model: nn.Module,
        data_config: Mapping[str, Any],
        settings: InversionSettings,
        accelerator: Accelerator,
        seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draw images on which the inputs of a model's BatchNorm layers have the statistics that these have stored.

    After DeepInversion (Yin et al., arXiv 1912.08795), but from noise with the spectrum of photographs instead of
    white noise, and with variances compared as logarithms; a hundred optimization steps are enough.

    Args:
        model: The original, in eval mode and without gradients, on the accelerator's device.
        data_config: timm's: input size, mean and standard deviation.
        settings: How many images, and how they are drawn.
        accelerator: Precision, and the processes that share the batches.
        seed: Of noise and classes.

    Returns:
        Normalised images [N, C, H, W], float16 on the CPU, and the classes that they were drawn for [N].

    Raises:
        SbsError: The model has no BatchNorm.
    """
    settings = dataclasses.replace(settings, batch_size=min(settings.batch_size, settings.images))
    count, device = math.ceil(settings.images / settings.batch_size), accelerator.device
    images = torch.zeros(count, settings.batch_size, *data_config['input_size'], dtype=torch.half, device=device)
    labels = torch.zeros(count, settings.batch_size, dtype=torch.long, device=device)
    mine = range(count)[share(count, accelerator)]
    kind = outputs_of(model)
    # float16 would lose the small gradients of the pixels.
    precision = accelerator.autocast if accelerator.mixed_precision == 'bf16' else contextlib.nullcontext
    with torch.random.fork_rng(devices=[]), _statistics_errors(model) as errors, Progress(
            len(mine) * settings.steps, 'synthetic images', accelerator=accelerator) as progress:
        def loss_of(batch: Tensor, classes: Tensor) -> Tensor:
            errors.clear()
            with precision():
                outputs = model(batch)
            loss = torch.stack(errors).mean()
            if isinstance(kind, ClassOutputs):
                loss = loss + settings.label_weight * F.cross_entropy(kind.logits(outputs), classes)
            return loss

        for index in mine:
            torch.manual_seed(seed * 1_000_003 + index)
            images[index], labels[index] = _matched_batch(loss_of, kind, settings, data_config, device, progress)
    images, labels = (accelerator.reduce(part, reduction='sum').flatten(0, 1).cpu() for part in (images, labels))
    return images[:settings.images], labels[:settings.images]


def _matched_batch(
        loss_of: Callable[[Tensor, Tensor], Tensor], kind: Outputs, settings: InversionSettings,
        data_config: Mapping[str, Any], device: torch.device, progress: Progress,
) -> tuple[Tensor, Tensor]:
    """One batch of images and the classes that they were drawn for, by Adam on the pixels."""
    low, high = (limit.to(device) for limit in _pixel_range(data_config))
    images = _noise(settings.batch_size, data_config).to(device, memory_format=torch.channels_last).requires_grad_()
    labels = torch.randint(max(1, kind.classes), (settings.batch_size,)).to(device)
    optimizer = torch.optim.Adam([images], lr=settings.lr, betas=(0.5, 0.9))
    shift = max(1, images.shape[-1] // 16)
    for step in range(settings.steps):
        optimizer.param_groups[0]['lr'] = settings.lr * (1 + math.cos(math.pi * step / settings.steps)) / 2
        moved = torch.roll(images, torch.randint(-shift, shift + 1, (2,)).tolist(), dims=(2, 3))
        if torch.rand(()) < 0.5:
            moved = moved.flip(3)
        optimizer.zero_grad()
        loss_of(moved, labels).backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(low, high)
        progress.update()
    return images.detach(), labels
