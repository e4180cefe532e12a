"""How well a model predicts: the classes of labelled images, or what its original predicts."""
from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.data.outputs import Outputs, outputs_of

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ['LARGEST', 'Accuracy', 'Comparison', 'Fidelity', 'evaluate']

LARGEST = 1e6  # divergence of an image whose logits are not finite


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
    if not kind.classes:
        raise SbsError(f'{type(model).__name__} has no classifier (num_classes=0), so its accuracy cannot be measured.')
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    correct = images = 0
    with Progress(_count(batches), description, 'batch', leave=False) as progress:
        for inputs, labels in batches:
            predicted = kind.predictions(model(inputs.to(device, memory_format=torch.channels_last)))
            assert predicted is not None, 'there are classes'
            correct += int((predicted == labels.to(device)).sum())
            images += len(labels)
            progress.update()
    model.train(was_training)
    return Accuracy(correct, images)


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


class Comparison:
    """Images on which models are compared with their original, whose predictions are computed once.

    Args:
        batches: This process's images [B, C, H, W] and class indices [B], the same each time. Only accuracies need
            right labels.
        original: In eval mode.
        accelerator: Device and processes.
        name: Of the images, for the progress bar.
        outputs: What the original's outputs mean; None: what its ``num_classes`` says.
    """

    def __init__(
            self, batches: Iterable[tuple[Tensor, Tensor]], original: nn.Module, accelerator: Accelerator, name: str,
            outputs: Outputs | None = None,
    ) -> None:
        self._batches, self._original, self._accelerator, self._name = batches, original, accelerator, name
        self._outputs = outputs or outputs_of(original)
        self._expected: list[Tensor] = []  # the original's outputs, float32 on the CPU

    def measure(self, model: nn.Module | Mapping[str, Tensor]) -> Fidelity:
        """Compare a model with the original, on the images of all processes, each of which has to call this.

        Draws nothing from the run's generators, and leaves the model in the mode it was in.

        Args:
            model: On the device; or tensors that a copy of the original gets in place of its own.
        """
        original = self._original.to(self._accelerator.device)  # parameters moved in inference mode take no gradients
        if isinstance(model, Mapping):
            tensors, model = dict(model), copy.deepcopy(original)
            model.load_state_dict(tensors, strict=False)
        was_training = model.training
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            sums = self._sums(model.eval(), original)
        model.train(was_training)
        count, divergence, agreeing, *correct = self._accelerator.reduce(sums, reduction='sum').tolist()
        top1, original_top1 = (None if math.isnan(number) else 100 * number / count for number in correct)
        return Fidelity(int(count), max(0., divergence / count), 100 * agreeing / count, top1, original_top1)

    def _sums(self, model: nn.Module, original: nn.Module) -> Tensor:
        """Images, their divergences and agreements, and right predictions of both (NaN: there are none): [5]."""
        device, kind = self._accelerator.device, self._outputs
        sums = torch.zeros(5, device=device)  # float32 counts are exact up to 16 million
        with Progress(_count(self._batches), self._name, 'batch', accelerator=self._accelerator, leave=False) as bar:
            for index, (images, labels) in enumerate(self._batches):
                images, labels = images.to(device, memory_format=torch.channels_last), labels.to(device)
                if index == len(self._expected):
                    self._expected.append(original(images).float().cpu())
                outputs, expected = model(images), self._expected[index].to(device)
                divergences = kind.divergences(outputs, expected).nan_to_num(nan=LARGEST, posinf=LARGEST)
                correct = [(predicted == labels).sum() if predicted is not None else sums.new_tensor(math.nan)
                           for predicted in (kind.predictions(outputs), kind.predictions(expected))]
                sums += torch.stack([
                    torch.full_like(sums[0], len(images)), divergences.sum(), kind.agreements(outputs, expected).sum(),
                    *correct])
                bar.update()
        return sums


def _count(batches: Iterable[object]) -> int | None:
    return len(batches) if isinstance(batches, Sized) else None
