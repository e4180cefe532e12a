"""Accuracy of a model on labelled images."""
from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from timm_sbs.common.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ['Accuracy', 'evaluate', 'measure']


@dataclass(frozen=True)
class Accuracy:
    """Correct predictions among a number of images."""
    correct: int
    images: int

    @property
    def top1(self) -> float:
        """Per cent of images whose class is predicted."""
        return 100 * self.correct / self.images


@torch.inference_mode()
def evaluate(
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        description: str = 'evaluation',
        quiet: bool = False,
) -> Accuracy:
    """Top-1 accuracy of a model in eval mode; the model is left in the mode it was in.

    Shapes:
        batches of images [B, C, H, W] and class indices [B]
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    correct = images = 0
    count = len(batches) if isinstance(batches, Sized) else None
    with Progress(count, description, 'batch', leave=False, quiet=quiet) as progress:
        for inputs, labels in batches:
            inputs = inputs.to(device, memory_format=torch.channels_last)
            correct += int((model(inputs).argmax(dim=1).cpu() == labels.cpu()).sum())
            images += len(labels)
            progress.update()
    model.train(was_training)
    return Accuracy(correct, images)


def measure(
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        accelerator: Accelerator,
        description: str = 'validation',
) -> Accuracy:
    """Top-1 accuracy over the images of all processes. Leaves random states as they were, for runs to be repeatable."""
    with torch.random.fork_rng(devices=[]):
        accuracy = evaluate(model, batches, description, quiet=not accelerator.is_main_process)
    counts = torch.tensor([accuracy.correct, accuracy.images], device=accelerator.device)
    correct, images = accelerator.reduce(counts, reduction='sum').tolist()
    return Accuracy(correct, images)
