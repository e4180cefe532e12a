"""Settings of the training phases. Defaults were chosen by measurement on ResNet-20."""
import math
import re
from dataclasses import dataclass

from timm_sbs.common.config import EncodingConfig
from timm_sbs.common.errors import ConfigError

__all__ = [
    'PRECISIONS', 'WARMUP', 'KEPT_PARTS', 'ENCODING_DEFAULTS', 'FOLD_FROM', 'MAX_PLACES', 'LINEAR_LAYERS',
    'QUANTIZED_LINEAR_LAYERS', 'PREDICTOR_BITS', 'FEWEST_ROUNDED_BITS', 'MOST_ROUNDED_BITS', 'WHOLE_STEPS',
    'FEWEST_IMAGES', 'PhaseSettings', 'ReconstructionSettings', 'SecondOrderSettings', 'DistillationSettings',
    'QuantizationSettings',
]

PRECISIONS = ('auto', 'no', 'bf16', 'fp16')  # 'auto' and accelerate's words
WARMUP = 0.05  # part of the steps over which the learning rate rises
# What an artifact stores beside the predictor, and what may be trained with it.
KEPT_PARTS = ('norm', 'statistics', 'stem', 'classifier', 'other')


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f'{_called(owner, name)} is {value}, but must be larger than 0.')


def _called(owner: object, name: str) -> str:
    """A setting as users of flags and of Python both know it: 'batch size of reconstruction'."""
    phase = re.sub('(?<!^)(?=[A-Z])', '-', type(owner).__name__.removesuffix('Settings')).lower()
    return f"{name.replace('_', ' ')} of {phase}"


# Encodings that were measured to work, by the coordinates of kernels. A grid's axes are shorter than a path, and its
# features have to tell apart kernels that are no neighbours.
ENCODING_DEFAULTS = {
    'path': EncodingConfig(),
    'grid': EncodingConfig(num_frequencies=128, layer_bandwidth=12., bandwidth=1.5),
}
# Networks of so many kernels have at most so many places in each layer. Folding EfficientNet-Lite0 like this leaves an
# error of 0.085 instead of 0.172 after 1,000 steps of reconstruction, for its kernels are seen more often; ResNet-18's
# shape with real kernels 0.105 instead of 0.125 with 4,096 places, with a seventh of the operations. On ResNet-56 it
# costs 9 % of the error and 0.1 points, and there is nothing to wait for.
FOLD_FROM, MAX_PLACES = 200_000, 1024
# Steps of the second-order phase where each takes all kernels. ResNet-18 gained nothing between 60 and 200.
WHOLE_STEPS = 300
FEWEST_ROUNDED_BITS, MOST_ROUNDED_BITS = 0.5, 10.  # of a weight: what more bytes buy, nobody sees
FEWEST_IMAGES = 10  # of the statistics
# Matrix products of a predictor: rounding errors grow from one to the next.
LINEAR_LAYERS, QUANTIZED_LINEAR_LAYERS = 5, 4
PREDICTOR_BITS = 5.  # of a weight, where bytes alone are given


@dataclass(frozen=True)
class PhaseSettings:
    """What all phases have: a number of steps of Adam, and its learning rate."""
    steps: int  # optimizer steps; 0 skips the phase
    lr: float  # peak of the schedule
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam

    def __post_init__(self) -> None:
        _require_positive(self, 'lr')
        if self.steps < 0:
            raise ConfigError(f"{_called(self, 'steps')} is {self.steps}, but must be 0 or more.")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0, of one cycle (Smith and Topin, arXiv 1708.07120): it rises from 1/25
        of the peak along a cosine and falls along another to 4e-6 of it.

        It depends on nothing but the step, so it is right after a resume and on any number of processes.
        """
        peak_at = WARMUP * (self.steps + 1) - 1  # torch's OneCycleLR with total_steps = steps + 1
        if step < peak_at:
            return self.lr * _cosine_between(1 / 25, 1., step / peak_at)
        return self.lr * _cosine_between(1., 1 / 25e4, (step - peak_at) / (self.steps - peak_at))


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class ReconstructionSettings(PhaseSettings):
    """Fitting the kernels themselves, without data."""
    steps: int = 4000
    lr: float = 2e-2
    betas: tuple[float, float] = (0.9, 0.99)
    batch_size: int = 4096  # kernels of one step, over all processes

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, 'batch_size')


@dataclass(frozen=True)
class SecondOrderSettings(PhaseSettings):
    """Fitting the kernels so that predictions change least, by statistics of some images (see ExpectedDivergence)."""
    steps: int = 3000
    lr: float = 4e-3
    betas: tuple[float, float] = (0.9, 0.99)
    batch_size: int = 8192  # kernels of one step, in whole filters, over all processes; a folded network takes all
    images: int = 2000  # that are looked at once, for the statistics; labels do not matter
    damping: float = 1e-3  # part of the mean that is added to the statistics' diagonals

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, 'batch_size', 'damping')
        if self.images < FEWEST_IMAGES:
            raise ConfigError(
                f'Statistics need at least {FEWEST_IMAGES} images, not {self.images} (--statistics-images).')


@dataclass(frozen=True)
class DistillationSettings(PhaseSettings):
    """Fitting the outputs of the original model on images, through all generated weights at once.

    Each loss weight is a pair: its value at the first step and at the last, linear in between.
    """
    steps: int = 4000
    lr: float = 5e-4
    output_weight: tuple[float, float] = (1., 1.)  # Kullback-Leibler divergence of the predictions
    feature_weight: tuple[float, float] = (0., 0.)  # relative squared error of feature maps
    label_weight: tuple[float, float] = (0., 0.)  # cross-entropy with the labels
    temperature: float = 2.0  # of the softmax of both networks, for the divergence
    feature_modules: tuple[str, ...] = ()  # whose outputs are compared; empty: those that timm's features come from
    train_kept: tuple[str, ...] = KEPT_PARTS  # parts of the kept tensors that are trained too
    rounding_lr: float = 1e-2  # of rounded weights, in steps of their integers
    rate_ramp: float = 0.3  # part of the steps in which the bits of integers fall to what is wanted
    clip_grad: float = 1.0  # largest norm of the gradient
    grad_accum_steps: int = 1  # batches of one step
    train_size: tuple[int, int] | None = None  # height of images at the first step and the last; None: the original's
    eval_interval: int = 500  # steps between looks at held-out images; the best predictor so far is written at each

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(
            self, 'temperature', 'rounding_lr', 'rate_ramp', 'clip_grad', 'grad_accum_steps', 'eval_interval')
        weights = self.output_weight, self.feature_weight, self.label_weight
        if any(not value >= 0 for pair in weights for value in pair):
            raise ConfigError('Loss weights must be 0 or more.')
        if self.steps and not all(any(at_end) for at_end in zip(*weights)):
            raise ConfigError('All loss weights are 0 at the first or the last step, so there is nothing to distil. '
                              'Set one of them, or no steps.')
        unknown = set(self.train_kept) - set(KEPT_PARTS)
        if unknown:
            raise ConfigError(
                f"train_kept names '{sorted(unknown)[0]}', but kept tensors are: {', '.join(KEPT_PARTS)}.")

    def weights_at(self, step: int) -> tuple[float, float, float]:
        """Weights of the output, feature and label loss at a step, counted from 0."""
        progress = step / max(1, self.steps - 1)
        output, feature, label = (
            start + (end - start) * progress
            for start, end in (self.output_weight, self.feature_weight, self.label_weight))
        return output, feature, label


@dataclass(frozen=True)
class QuantizationSettings(PhaseSettings):
    """Training with everything rounded as the artifact will round it: like distillation if there are images, else like
    reconstruction."""
    steps: int = 2000
    lr: float = 5e-4
    bits: float | None = None  # of a weight of the predictor, the mean over its layers; None stores floats
    # Of each layer of the quantized artifact to start from, instead of ``bits``; None: it is none.
    layer_bits: tuple[float, ...] | None = None
    kept_bits: int = 8  # of kept tensors
    max_bytes: int | None = None  # of both files; bits are lowered during training if they turn out to be larger
