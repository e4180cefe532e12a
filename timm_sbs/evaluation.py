"""Accuracy of a model on labelled images."""
from dataclasses import dataclass
from typing import Iterable, Tuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

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
        batches: Iterable[Tuple[Tensor, Tensor]],
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
    for inputs, labels in tqdm(batches, desc=description, unit='batch', leave=False, disable=True if quiet else None):
        inputs = inputs.to(device, memory_format=torch.channels_last)
        correct += int((model(inputs).argmax(dim=1).cpu() == labels.cpu()).sum())
        images += len(labels)
    model.train(was_training)
    return Accuracy(correct, images)
