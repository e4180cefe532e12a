"""Settings of the training phases. Their ``Attributes`` are the help of the flags."""
import math
from dataclasses import dataclass
from typing import ClassVar

from timm_sbs.common.fields import named, python_only, require, require_positive

__all__ = ['FEWEST_IMAGES', 'Phase', 'Reconstruction', 'SecondOrder', 'Distillation']

WARMUP = 0.05  # part of the optimization steps over which the learning rate rises
FEWEST_IMAGES = 10  # of the activation statistics


@dataclass(frozen=True)
class Phase:
    """What the training phases share: optimization steps of Adam with a one-cycle learning rate.

    Attributes:
        steps: Optimization steps; 0 skips the phase.
        lr: Peak learning rate.
    """
    steps: int
    lr: float
    betas: ClassVar[tuple[float, float]] = 0.9, 0.99  # of Adam

    def __post_init__(self) -> None:
        require(self, 'steps', lambda steps: steps >= 0, '0 or more')
        require_positive(self, 'lr')

    def lr_at(self, step: int) -> float:
        """Learning rate of an optimization step, counted from 0, of one cycle (Smith and Topin, arXiv 1708.07120): it
        rises from 1/25 of the peak along a cosine and falls along another to 4e-6 of it.

        It depends on nothing but the step, so it is right after a resume and on any number of processes.
        """
        peak_at = WARMUP * (self.steps + 1) - 1  # torch's OneCycleLR with total_steps = steps + 1
        if step < peak_at:
            return self.lr * _cosine_between(1 / 25, 1., step / peak_at)
        return self.lr * _cosine_between(1., 1 / 25e4, (step - peak_at) / (self.steps - peak_at))


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Reconstruction(Phase):
    """Reconstruction: fit the predictor to the weights themselves; needs no data

    Attributes:
        steps: Optimization steps; 0 skips the phase.
        lr: Peak learning rate of predictors up to a width of 128; wider ones get less in proportion.
    """
    steps: int = named('reconstruction_steps', 4000)
    lr: float = named('reconstruction_lr', 2e-2)


@dataclass(frozen=True)
class SecondOrder(Phase):
    """Second order: with images, fit or round the weights so that predictions change least

    Attributes:
        steps: Optimization steps; 0 skips the phase. Large networks need fewer: 200 are enough for ResNet-18.
        lr: Peak learning rate, as in reconstruction.
        statistics_images: Training images from which activation statistics are collected, without labels.
        damping: Part of their mean that is added to the diagonals of the statistics.
    """
    steps: int = named('second_order_steps', 1500)
    lr: float = named('second_order_lr', 4e-3)
    statistics_images: int = 2000
    damping: float = named('second_order_damping', 1e-3, flag=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, 'damping')
        require(self, 'statistics_images', lambda count: count >= FEWEST_IMAGES, f'{FEWEST_IMAGES} or more')


@dataclass(frozen=True)
class Distillation(Phase):
    """Distillation: train on images until the model predicts what the original predicts

    Attributes:
        steps: Optimization steps; 0 skips the phase.
        lr: Peak learning rate.
        rounding_lr: Peak learning rate of rounded weights, in step sizes of their integers.
        feature_weight: Weight of the relative squared error of feature maps, beside the divergence of predictions.
        temperature: Of the softmax of both networks.
        train_statistics: Whether BatchNorm statistics follow the training images (default: if these are read and not
            mixed).
        clip_grad: Largest norm of the gradient.
        eval_interval: Steps between looks at the held-out images; the best artifact is kept.
    """
    steps: int = named('distillation_steps', 4000)
    lr: float = 5e-4
    rounding_lr: float = 1e-2
    feature_weight: float = 0.
    temperature: float = python_only(2.)
    train_statistics: bool | None = python_only(None)
    clip_grad: float = python_only(1.)
    eval_interval: int = python_only(500)
    betas: ClassVar[tuple[float, float]] = 0.9, 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, 'rounding_lr', 'temperature', 'clip_grad', 'eval_interval')
        require(self, 'feature_weight', lambda weight: weight >= 0, '0 or more')
