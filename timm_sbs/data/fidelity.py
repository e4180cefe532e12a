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

__all__ = ['LARGEST', 'Fidelity', 'Seen', 'fidelity', 'with_logits']

LARGEST = 1e6  # divergence of an image whose logits are not finite
Seen = tuple[Tensor, Tensor, Tensor]  # images [B, C, H, W], class indices [B], and the original's outputs [B, ...]


@dataclass(frozen=True)
class Fidelity:
    """Predictions compared with the original's, on the same images.

    Attributes:
        images: How many.
        divergence: Mean Kullback-Leibler divergence of the predictions from the original's, in nats; without a
            classifier, relative squared error of the features. 0 if they are equal.
        agreement: Per cent of images for which both predict the same class; without a classifier, mean cosine
            similarity of the features.
        top1, original_top1: Per cent of images whose class, as labels say, is predicted; None without a classifier.
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
        model: nn.Module, seen: Iterable[Seen], accelerator: Accelerator, description: str, batches: int | None = None,
) -> Fidelity:
    """Compare a model with its original, on the images of all processes. Draws nothing from the run's generators, and
    leaves the model in the mode it was in.

    Args:
        model: On the device.
        seen: This process's images, with the original's outputs.
        accelerator: The processes.
        description: Of the progress bar.
        batches: How many there are, if that is known.
    """
    was_training, device, kind = model.training, next(model.parameters()).device, outputs_of(model)
    model.eval()
    sums = torch.zeros(5, device=device)  # float32 counts are exact up to 16 million
    with torch.random.fork_rng(devices=[]), Progress(
            batches, description, 'batch', accelerator=accelerator, leave=False) as bar:
        for images, labels, expected in seen:
            images, labels, expected = (
                images.to(device, memory_format=torch.channels_last), labels.to(device), expected.to(device))
            outputs = model(images)
            divergences = kind.divergences(outputs, expected).nan_to_num(nan=LARGEST, posinf=LARGEST)
            found = kind.predictions(outputs), kind.predictions(expected)
            correct = [torch.zeros_like(sums[0]) if x is None else (x == labels).sum() for x in found]
            sums += torch.stack([
                torch.full_like(sums[0], len(images)), divergences.sum(), kind.agreements(outputs, expected).sum(),
                *correct])
            bar.update()
    model.train(was_training)
    count, divergence, agreeing, *correct = accelerator.reduce(sums, reduction='sum').tolist()
    top1, original_top1 = (100 * number / count if kind.classes else None for number in correct)
    return Fidelity(int(count), max(0., divergence / count), 100 * agreeing / count, top1, original_top1)
