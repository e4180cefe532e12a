"""What all phases of a run work on."""
import copy
from dataclasses import dataclass
from typing import Dict, Mapping

from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.training.configuration import Settings
from timm_sbs.training.images import Images, measure
from timm_sbs.training.run import Run

__all__ = ['Task', 'measure_tensors', 'say']


@dataclass(frozen=True)
class Task:
    """A run with its original model, images and settings."""
    run: Run
    original: nn.Module
    images: Images
    settings: Settings
    seed: int


def measure_tensors(task: Task, tensors: Mapping[str, Tensor], phase: str) -> Dict[str, float]:
    """What a phase has come to: the original with these tensors in place of its own, on the validation images. The run's
    results get it as ``PHASE_top1``.

    Returns:
        ``{'top1': per cent}``, or nothing where there are no such images.
    """
    accelerator, validation = task.run.accelerator, task.images.validation
    if not validation:
        return {}
    model = copy.deepcopy(task.original)
    model.load_state_dict(dict(tensors), strict=False)
    top1 = measure(model.to(accelerator.device), validation, accelerator, f'after {phase}').top1
    task.run.results[f"{phase.replace('-', '_')}_top1"] = top1
    say(accelerator, f'after {phase}: top-1 {top1:.2f} %')
    return {'top1': top1}


def say(accelerator: Accelerator, text: str) -> None:
    """Print a line, once for all processes."""
    if accelerator.is_main_process:
        print(text, flush=True)
