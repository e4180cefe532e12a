"""Training images for users who have none: drawn to match the original model's BatchNorm statistics."""
import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.common.distributed import share
from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.data.augmentation import ImageTransform, seed_of
from timm_sbs.data.outputs import Outputs, outputs_of

__all__ = ['batch_norms', 'drawn_transform', 'invert']

GREY, COLOUR, CONTRAST = 1.0, 0.5, 0.9  # strength of noise common to the channels, of each one's own, and of the sum
BATCH_SIZE = 256
LR = 0.1  # peak, in standard deviations of the normalised pixels
LABEL_WEIGHT = 0.1  # of the cross-entropy with a class drawn for each image


def drawn_transform(data_config: Mapping[str, Any]) -> ImageTransform:
    """Shifts of drawn images by up to an eighth of their size, and flips. They are mirrored at their borders, for black
    ones would have edges that were not drawn to match the statistics."""
    return ImageTransform(data_config, shift=min(data_config['input_size'][1:]) // 8, border='reflect')


def _noise(count: int, data_config: Mapping[str, Any]) -> Tensor:
    """Noise whose amplitude falls with 1 / frequency, as that of photographs does (Field, 1987): [count, C, H, W]."""
    channels, height, width = data_config['input_size']
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    amplitude = 1 / frequency.clamp(min=1 / max(height, width))
    white = COLOUR * torch.randn(count, channels, height, width) + GREY * torch.randn(count, 1, height, width)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(height, width))
    return noise / noise.std(dim=(1, 2, 3), keepdim=True) * CONTRAST


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """BatchNorm layers with stored statistics.

    Raises:
        SbsError: There are none.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    if not norms:
        raise SbsError(f'{type(model).__name__} has no BatchNorm statistics that drawn images could match; use '
                       f'--images instead of --data-free.')
    return norms


@contextlib.contextmanager
def _statistics_errors(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which each pass through the model adds the errors of its BatchNorm layers: how far mean and variance of
    their inputs are from the stored ones, in units of the latter."""
    errors: list[Tensor] = []

    def hook(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        stored_mean, variance = module.get_buffer('running_mean'), module.get_buffer('running_var') + module.eps
        found = inputs[0].float()
        ratio = found.var(dim=(0, 2, 3), unbiased=False) / variance
        errors.append(((found.mean(dim=(0, 2, 3)) - stored_mean).square() / variance).mean()
                      + ratio.clamp(min=1e-4).log().square().mean())

    hooks = [norm.register_forward_pre_hook(hook) for norm in batch_norms(model)]
    try:
        yield errors
    finally:
        for handle in hooks:
            handle.remove()


def invert(
        model: nn.Module, data_config: Mapping[str, Any], images: int, steps: int, accelerator: Accelerator,
        seed: int = 0, outputs: Outputs | None = None) -> Tensor:
    """Draw images on which the inputs of a model's BatchNorm layers have the statistics that these have stored.

    After DeepInversion (Yin et al., arXiv 1912.08795), but from noise with the spectrum of photographs instead of
    white noise, and with variances compared as logarithms; a hundred optimization steps are enough.

    Args:
        model: The original, in eval mode and without gradients, on the accelerator's device.
        data_config: timm's: input size, mean and standard deviation.
        steps: Of gradient descent on the pixels.
        seed: Of noise, and of the classes that images are drawn for.
        outputs: What the model's outputs mean; None: what its ``num_classes`` says.

    Returns:
        uint8 [images, C, H, W] on the CPU.

    Raises:
        SbsError: The model has no BatchNorm.
    """
    kind, size = outputs or outputs_of(model), min(BATCH_SIZE, images)
    count = math.ceil(images / size)
    drawn = torch.zeros(count, size, *data_config['input_size'], dtype=torch.uint8, device=accelerator.device)
    mine = range(count)[share(count, accelerator)]
    with torch.random.fork_rng(devices=[]), Progress(
            len(mine) * steps, 'synthetic images', accelerator=accelerator) as progress:
        for index in mine:
            torch.manual_seed(seed_of(seed, index))
            drawn[index] = _matched_batch(model, kind, data_config, size, steps, accelerator, progress)
    return accelerator.reduce(drawn, reduction='sum').flatten(0, 1)[:images].cpu()


def _matched_batch(
        model: nn.Module, kind: Outputs, data_config: Mapping[str, Any], size: int, steps: int,
        accelerator: Accelerator, progress: Progress) -> Tensor:
    """One batch of images, by Adam on the pixels: uint8 [B, C, H, W]."""
    device = accelerator.device
    # float16 would lose the small gradients of the pixels.
    precision = accelerator.autocast if accelerator.mixed_precision == 'bf16' else contextlib.nullcontext
    mean, std = (torch.tensor(data_config[name], device=device)[:, None, None] for name in ('mean', 'std'))
    images = _noise(size, data_config).to(device, memory_format=torch.channels_last)
    images = images.clamp_(-mean / std, (1 - mean) / std).requires_grad_()
    labels = torch.randint(max(1, kind.classes), (size,)).to(device)
    optimizer = torch.optim.Adam([images], lr=LR, betas=(0.5, 0.9))
    shift = max(1, images.shape[-1] // 16)
    for step in range(steps):
        optimizer.param_groups[0]['lr'] = LR * (1 + math.cos(math.pi * step / steps)) / 2
        moved = torch.roll(images, torch.randint(-shift, shift + 1, (2,)).tolist(), dims=(2, 3))
        if torch.rand(()) < 0.5:
            moved = moved.flip(3)
        with _statistics_errors(model) as errors, precision():
            outputs = model(moved)
        loss = torch.stack(errors).mean() + LABEL_WEIGHT * kind.class_loss(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(-mean / std, (1 - mean) / std)
        progress.update()
    return ((images.detach() * std + mean) * 255).round().byte()
