"""Accuracy of a model on labelled images."""
from collections.abc import Iterable, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_sbs.common.progress import Progress

__all__ = ['Accuracy', 'evaluate']


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
    with Progress(count, description, 'batch', leave=False) as progress:
        for inputs, labels in batches:
            inputs = inputs.to(device, memory_format=torch.channels_last)
            correct += int((model(inputs).argmax(dim=1).cpu() == labels.cpu()).sum())
            images += len(labels)
            progress.update()
    model.train(was_training)
    return Accuracy(correct, images)
