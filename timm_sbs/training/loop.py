"""The loop of optimization steps that all training phases share: Adam, learning rate, progress, logged figures."""
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.data.outputs import Outputs
from timm_sbs.training.phase_settings import Phase

__all__ = ['Context', 'optimize', 'trained_state']

LOG_INTERVAL = 50  # optimization steps between looks at the loss, each of which waits for the device


class Context:
    """What a phase knows of its run. This one stands alone: it has no checkpoints and no images to look at.

    Attributes:
        accelerator: Device, processes and precision.
        seed: Of everything that is drawn.
        outputs: What the original's outputs mean; None: what its ``num_classes`` says.
        results: What is measured and counted, as it will stand in config.json.
    """

    def __init__(
            self, accelerator: Accelerator | None = None, seed: int = 0, outputs: Outputs | None = None,
    ) -> None:
        self.accelerator = accelerator or make_accelerator()
        self.seed, self.outputs = seed, outputs
        self.results: dict[str, Any] = {}

    def resume(self, module: nn.Module) -> int:
        """Restore what is trained in a run that was stopped in this phase; optimization steps that were done."""
        return 0

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of an optimization step, counted from 1."""

    def step_done(self, step: int, module: nn.Module) -> None:
        """An optimization step is done, and nothing else is left to do for it: the time for a checkpoint."""

    def consider(self, artifact: Artifact, when: str, fits: bool = True, step: int = 0) -> None:
        """Measure an artifact, and keep it if it is the best."""

    def far_worse(self, artifact: Artifact, other: Callable[[], Artifact]) -> tuple[float, float] | None:
        """Percentages of unchanged predictions of an artifact and of another, if the other has far more."""
        return None

    def is_better(self, artifact: Artifact, other: Artifact) -> bool:
        """Whether an artifact diverges less from the original than another, as far as there are images to look at."""
        return True


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Buffers and trained parameters of a module, a tensor of several names under the first."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    tensors = {**trained, **dict(module.named_buffers())}
    return {name: tensors[name].detach() for name in module.state_dict() if name in tensors}


def optimize(
        name: str,
        settings: Phase,
        module: nn.Module,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        take_step: Callable[[int], Tensor],
        context: Context,
        lr_scale: float = 1.,
        after_step: Callable[[int], None] = lambda done: None,
) -> None:
    """Train by Adam.

    Args:
        name: Of the phase, for messages and logged figures.
        parameters: Of the module, as torch's optimizers take them; 'lr_scale' of a group is a factor of its rate.
        take_step: Given the number of the step, counted from 0, leaves gradients and returns this process's part of the
            loss.
        lr_scale: Factor of all learning rates.
        after_step: Called with the number of steps done, before the checkpoint of that step.

    Raises:
        SbsError: The loss is no longer finite.
    """
    accelerator = context.accelerator
    # One kernel for all tensors: a step has dozens of tensors of a few numbers.
    optimizer = accelerator.prepare(torch.optim.Adam([*parameters], lr=settings.lr, betas=settings.betas, fused=True))
    start = context.resume(module)
    with Progress(settings.steps, name, initial=start, accelerator=accelerator) as progress:
        for step in range(start, settings.steps):
            lr = settings.lr_at(step) * lr_scale
            for group in optimizer.param_groups:
                group['lr'] = lr * group.get('lr_scale', 1.)
            optimizer.zero_grad()
            loss = take_step(step)
            optimizer.step()
            progress.update()
            done = step + 1
            if done % LOG_INTERVAL == 0 or done == settings.steps:
                value = float(accelerator.reduce(loss.detach(), reduction='sum'))
                progress.show(loss=f'{value:.4g}')
                context.log(done, {'loss': value, 'lr': lr})
                if not math.isfinite(value):
                    raise SbsError(f'The loss of {name} is {value} at step {done}. Lower its learning rate.')
            after_step(done)
            context.step_done(done, module)
    accelerator.free_memory()
