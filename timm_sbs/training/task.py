"""What all phases of a run work on."""
from dataclasses import dataclass

from accelerate import Accelerator
from torch import nn

from timm_sbs.training.configuration import Settings
from timm_sbs.training.images import Images
from timm_sbs.training.run import Run

__all__ = ['Task', 'say']


@dataclass(frozen=True)
class Task:
    """A run with its original model, images and settings."""
    run: Run
    original: nn.Module
    images: Images
    settings: Settings
    seed: int


def say(accelerator: Accelerator, text: str) -> None:
    """Print a line, once for all processes."""
    if accelerator.is_main_process:
        print(text, flush=True)
