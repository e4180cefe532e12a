"""What all phases of a run work on."""
import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from timm_sbs.common.progress import say
from timm_sbs.data.accuracy import measure
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.run.images import Images
from timm_sbs.training.run.run import Run

__all__ = ['Task', 'measure_tensors']


@dataclass(frozen=True)
class Task:
    """A run with its original model, images and settings."""
    run: Run
    original: nn.Module
    images: Images
    settings: Settings
    seed: int


def measure_tensors(task: Task, tensors: Mapping[str, Tensor], phase: str) -> dict[str, float]:
    """What a phase has come to: the original with these tensors in place of its own, on the validation images. The
    run's results get it as ``PHASE_top1``.

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
