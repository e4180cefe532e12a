"""Distillation: train on images until the generated or rounded model predicts what the original predicts."""
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.tensors import moved
from timm_sbs.data.batches import TrainingBatches
from timm_sbs.training.loop import Context, optimize
from timm_sbs.training.losses.distillation import distillation_loss
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.phases.rounding import ByteBudget
from timm_sbs.training.trainable.generated_model import GeneratedModel

__all__ = ['distill']

RATE_RAMP = 0.3  # part of the steps in which the bits of integers fall to what is wanted
BUDGET_LOOKS = 10  # at the size: to encode the integers of ResNet-18 takes seconds
# Of a step size: by how much rounding leans to zero, at least and at most, where the last artifact is too large.
LEANING, MOST_LEANING = 0.01, 1.


def distill(
        artifact: Artifact,
        original: nn.Module,
        images: TrainingBatches,
        settings: Distillation = Distillation(),
        context: Context | None = None,
        budget: ByteBudget | None = None,
        bits: float | None = None,
        follows_statistics: bool = True,
) -> Artifact:
    """Train predictor, rounded weights and stored tensors so that the model predicts what the original predicts.

    Everything is rounded as the artifact will store it, in training and in measuring. Every ``eval_interval`` steps the
    run measures the artifact, and keeps it if it is the best (:meth:`Context.consider`).

    Args:
        artifact: Its predictor is trained in place.
        original: In eval mode.
        budget: Bytes of both files, if they are limited: integers become cheaper as training goes on.
        bits: Of each integer, the mean that training aims for where there is no budget; None: as many as at first.
        follows_statistics: Whether BatchNorm statistics follow the training images, as the other stored tensors do.

    Returns:
        The artifact after the last step.

    Raises:
        SbsError: The loss is no longer finite.
    """
    context = context or Context()
    original = original.to(context.accelerator.device).to(memory_format=torch.channels_last)
    base = copy.deepcopy(original)
    base.load_state_dict(dict(artifact.kept), strict=False)
    artifact = artifact.with_fixed_steps()
    student = GeneratedModel(artifact, base, context.accelerator, follows_statistics)
    return _Distillation(artifact, student, original, images, settings, context, budget, bits).run()


@dataclass
class _Distillation:
    """One distillation: its steps, and the size of the student."""
    start: Artifact
    student: GeneratedModel
    original: nn.Module
    images: TrainingBatches
    settings: Distillation
    context: Context
    budget: ByteBudget | None
    bits: float | None
    batches: Iterator[Tensor] | None = None

    def run(self) -> Artifact:
        self._follow_budget()
        self.student.train()
        optimize('distillation', self.settings, self.student, self.student.parameter_groups(self.settings),
                 self._take_step, self.context, after_step=self._after_step)
        self.student.eval()
        return self._artifact()

    def _artifact(self) -> Artifact:
        """The artifact of this moment."""
        changed = dataclasses.replace(self.start, rounded=self.student.rounded_state())
        return changed.with_kept(self.student.model).with_results(dict(self.context.results))

    def _take_step(self, step: int) -> Tensor:
        settings, student, accelerator = self.settings, self.student, self.context.accelerator
        if self.batches is None:  # the first step after a resume is not step 0
            self.batches = self.images.starting_at(step)
        weights = student.generate()
        images = moved(next(self.batches), accelerator.device, torch.channels_last)
        loss = distillation_loss(student, self.original, images, weights, settings, self.context.outputs)
        accelerator.backward(loss)
        student.backward(weights, step / max(1, RATE_RAMP * settings.steps))
        accelerator.clip_grad_norm_(student.trained_parameters, settings.clip_grad)
        return loss.detach() / accelerator.num_processes

    def _after_step(self, done: int) -> None:
        settings = self.settings
        last = done == settings.steps
        if last or done % settings.eval_interval == 0:
            self.student.synchronize()
            self.context.results['distillation_steps'] = done
            excess = self._fit_into_budget() if last else self._excess()
            if last or excess <= 0:
                self.context.consider(self._artifact(), f'step {done}', excess <= 0, done)
        if self.budget and not last and done % max(1, settings.steps // BUDGET_LOOKS) == 0:
            self._follow_budget()

    def _follow_budget(self) -> None:
        """Tell the rate how many bits integers may take."""
        rate, budget = self.student.rate, self.budget
        if rate is None:
            return
        bits = float(rate.bits(self.student.integers))
        if budget:
            rate.set_target(decided_once(lambda: budget.wanted_bits(self._artifact(), bits), self.context.accelerator))
        else:
            rate.set_target(bits if self.bits is None else self.bits * rate.size)

    def _excess(self) -> int:
        """Bytes by which the artifact of this moment is too large."""
        budget = self.budget
        return decided_once(lambda: budget.excess(self._artifact()), self.context.accelerator) if budget else 0

    def _fit_into_budget(self) -> int:
        """After the last step, when the rate can move nothing any more. Returns what :meth:`_excess` is then."""
        exact, part = {name: number.detach().clone() for name, number in self.student.integers.items()}, 0.
        excess = self._excess()
        while exact and part < MOST_LEANING and excess > 0:
            part += max(LEANING, part / 4)
            self.student.lean_to_zero(exact, part)
            excess = self._excess()
        return excess
