"""What all phases of a run work on."""
import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_sbs.common.progress import say
from timm_sbs.data.batches import SampleBatches
from timm_sbs.data.fidelity import Fidelity, fidelity, with_logits
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.run.choice import HeldOut, held_out_results
from timm_sbs.training.run.images import Images, sample_images
from timm_sbs.training.run.run import Run

__all__ = ['Task', 'agreements_if_far_worse', 'changed', 'look_at', 'measure_tensors']

FEW_IMAGES = 256  # that are looked at where none are held out
# Per cent of agreement: below it, what statistics have led to is compared with what needs none, and by how much that
# must be better to be taken.
DOUBTFUL, WORSE = 80., 10.


@dataclass(frozen=True)
class Task:
    """A run with its original model, images and settings."""
    run: Run
    original: nn.Module
    images: Images
    settings: Settings
    seed: int
    held_out: HeldOut | None = None  # what chooses the artifact that is kept, if there is something
    drawn: SampleBatches | None = None  # images that the run has drawn, if it has none to read


def changed(task: Task, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the original with these tensors in place of its own, on the device of the run."""
    model = copy.deepcopy(task.original)
    model.load_state_dict(dict(tensors), strict=False)
    return model.to(task.run.accelerator.device)


def look_at(task: Task, tensors: Mapping[str, Tensor]) -> Fidelity:
    """The original with these tensors in place of its own, on the held-out images, or on some of the statistics'.

    All processes have to call this, of a run that has images.
    """
    accelerator, model = task.run.accelerator, changed(task, tensors)
    if task.held_out:
        return task.held_out.measure(model)
    few = dataclasses.replace(task.settings.second_order, images=FEW_IMAGES)
    batches, _ = sample_images(
        task.images, dataclasses.replace(task.settings, second_order=few), task.drawn, accelerator)
    labelled = ((images, torch.zeros(len(images), dtype=torch.long)) for images in batches)
    with torch.inference_mode():
        return fidelity(model, with_logits(task.original.to(accelerator.device), labelled), accelerator, 'images')


def agreements_if_far_worse(
        task: Task, tensors: Mapping[str, Tensor], alone: Callable[[], Mapping[str, Tensor]],
) -> tuple[float, float] | None:
    """Per cent of predictions that stay with what statistics have led to, and with what needs none, if the former is
    far worse, and None if it may be taken. All processes have to call this."""
    seen = look_at(task, tensors).agreement
    without = look_at(task, alone()).agreement if seen < DOUBTFUL else seen
    return (seen, without) if without > seen + WORSE else None


def measure_tensors(task: Task, tensors: Mapping[str, Tensor], phase: str) -> dict[str, float]:
    """What a phase has come to: see :func:`look_at`.

    Returns:
        Figures for a row of the summary; nothing where no image is held out.
    """
    if not task.held_out:
        return {}
    found = look_at(task, tensors)
    say(task.run.accelerator, f'after {phase}: {found} on held-out images')
    return held_out_results(found)
