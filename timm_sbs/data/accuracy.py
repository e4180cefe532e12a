"""Accuracy of a model on labelled images."""
from collections.abc import Iterable, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.data.outputs import FeatureOutputs, outputs_of

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
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], description: str = 'evaluation') -> Accuracy:
    """Top-1 accuracy of a model in eval mode, on images [B, C, H, W] and class indices [B] of each batch.

    The model is left in the mode it was in.

    Raises:
        SbsError: The model has no classifier.
    """
    kind = outputs_of(model)
    if isinstance(kind, FeatureOutputs):
        raise SbsError(f'{type(model).__name__} has no classifier (num_classes=0), so its accuracy cannot be measured.')
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    correct = images = 0
    with Progress(len(batches) if isinstance(batches, Sized) else None, description, 'batch', leave=False) as progress:
        for inputs, labels in batches:
            predicted = kind.predictions(model(inputs.to(device, memory_format=torch.channels_last)))
            correct += int((predicted == labels.to(device)).sum())
            images += len(labels)
            progress.update()
    model.train(was_training)
    return Accuracy(correct, images)
