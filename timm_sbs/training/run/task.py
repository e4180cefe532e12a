"""What all phases of a run work on."""
import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from timm_sbs.common.progress import say
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.run.choice import HeldOut, held_out_results
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
    held_out: HeldOut | None = None  # what chooses the artifact that is kept, if there is something


def measure_tensors(task: Task, tensors: Mapping[str, Tensor], phase: str) -> dict[str, float]:
    """What a phase has come to: the original with these tensors in place of its own, on the held-out images.

    Returns:
        Figures for a row of the summary; nothing where no image is held out.
    """
    if not task.held_out:
        return {}
    model = copy.deepcopy(task.original)
    model.load_state_dict(dict(tensors), strict=False)
    found = task.held_out.measure(model.to(task.run.accelerator.device))
    say(task.run.accelerator, f'after {phase}: {found} on held-out images')
    return held_out_results(found)
