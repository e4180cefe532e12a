"""Settings of the two training phases. Defaults were chosen by measurement on ResNet20."""
from dataclasses import dataclass

from timm_sbs.errors import ConfigError

__all__ = ['ReconstructionSettings', 'DistillationSettings']


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        if not getattr(owner, name) > 0:
            raise ConfigError(f'{type(owner).__name__}.{name} is {getattr(owner, name)}, but must be larger than 0.')


@dataclass(frozen=True)
class ReconstructionSettings:
    """Fitting the kernels themselves, without data."""
    steps: int = 4000
    batch_size: int = 4096  # kernels of one step
    lr: float = 2e-2  # peak of the one-cycle schedule

    def __post_init__(self) -> None:
        _require_positive(self, 'steps', 'batch_size', 'lr')


@dataclass(frozen=True)
class DistillationSettings:
    """Fitting the outputs of the original model on images, through all generated weights at once."""
    steps: int = 4000
    lr: float = 5e-4  # peak of the one-cycle schedule
    temperature: float = 2.0  # of the softmax of both networks
    clip_grad: float = 1.0  # largest norm of the gradient
    eval_interval: int = 500  # steps between validations; the best predictor so far is written at each

    def __post_init__(self) -> None:
        _require_positive(self, 'steps', 'lr', 'temperature', 'clip_grad', 'eval_interval')
