"""How well a model predicts what its original predicts. Labels are needed for accuracies alone."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from timm_sbs.common.progress import Progress
from timm_sbs.data.outputs import outputs_of

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ['Fidelity', 'Seen', 'fidelity', 'with_logits']

LARGEST = 1e6  # divergence of an image whose logits are not finite
Seen = tuple[Tensor, Tensor, Tensor]  # images [B, C, H, W], class indices [B], and the original's outputs [B, ...]


@dataclass(frozen=True)
class Fidelity:
    """Predictions beside the original's, on the same images.

    Attributes:
        images: How many.
        divergence: Mean Kullback-Leibler divergence of the model's predictions from the original's, in nats; without
            a classifier, relative squared error of the features. 0 if they are equal.
        agreement: Per cent of images for which both predict the same class; without a classifier, mean cosine
            similarity of the features.
        top1, original_top1: Per cent of images whose class is predicted, if labels say which that is; None without a
            classifier.
    """
    images: int
    divergence: float
    agreement: float
    top1: float | None
    original_top1: float | None

    def __str__(self) -> str:
        return f'divergence {self.divergence:.4f}, agreement {self.agreement:.2f} %'


def with_logits(original: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Seen]:
    """Batches of images [B, C, H, W] and class indices [B], on the original's device, with its outputs."""
    device = next(original.parameters()).device
    for images, labels in batches:
        images = images.to(device, memory_format=torch.channels_last)
        yield images, labels.to(device), original(images).float()


@torch.inference_mode()
def fidelity(
        model: nn.Module,
        seen: Iterable[Seen],
        accelerator: Accelerator,
        description: str,
        batches: int | None = None,
) -> Fidelity:
    """Compare a model with its original, on the images of all processes. Leaves random states as they were, for runs to
    be repeatable, and the model in the mode it was in.

    Args:
        model: On the device.
        seen: This process's images, with the original's outputs.
        accelerator: The processes.
        description: Of the progress bar.
        batches: How many there are, if that is known.
    """
    was_training = model.training
    model.eval()
    device, kind = next(model.parameters()).device, outputs_of(model)
    sums = torch.zeros(5, dtype=torch.float32, device=device)  # counts are exact up to 16 million
    quiet = not accelerator.is_main_process
    with torch.random.fork_rng(devices=[]), Progress(batches, description, 'batch', leave=False, quiet=quiet) as bar:
        for images, labels, expected in seen:
            images, labels, expected = (
                images.to(device, memory_format=torch.channels_last), labels.to(device), expected.to(device))
            outputs = model(images)
            divergences = kind.divergences(outputs, expected).nan_to_num(nan=LARGEST, posinf=LARGEST)
            right = [torch.zeros((), device=device) if found is None else (found == labels).sum()
                     for found in (kind.predictions(outputs), kind.predictions(expected))]
            sums += torch.stack([
                torch.tensor(float(len(images)), device=device), divergences.sum(),
                kind.agreements(outputs, expected).sum(), *right])
            bar.update()
    model.train(was_training)
    images_, divergence, agreeing, correct, original_correct = accelerator.reduce(sums, reduction='sum').tolist()
    top1 = (100 * correct / images_, 100 * original_correct / images_) if kind.classes else (None, None)
    return Fidelity(int(images_), max(0., divergence / images_), 100 * agreeing / images_, *top1)
