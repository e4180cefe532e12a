"""Distillation: train on images until the generated or rounded model predicts what the original predicts."""
import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.progress import say
from timm_sbs.common.tensors import moved
from timm_sbs.data.batches import Batch, Batches
from timm_sbs.training.budget import ByteBudget
from timm_sbs.training.loop import Context, optimize
from timm_sbs.training.losses.distillation import Objective
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.trainable.generated_model import GeneratedModel

__all__ = ['TrainingImages', 'distill']

RATE_RAMP = 0.3  # part of the steps in which the bits of integers fall to what is wanted
BUDGET_LOOKS = 10  # at the size: to encode the integers of ResNet-18 takes seconds
# Of a step size: by how much rounding leans to zero, at least and at most, where the last artifact is too large.
LEANING, MOST_LEANING = 0.01, 1.


@dataclass(frozen=True)
class TrainingImages:
    """Images to train on.

    Attributes:
        batches: Of this process.
        prepare: What becomes of a batch on the device: of its images, labels, number over the run, and step.
    """
    batches: Batches
    prepare: Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]] = lambda images, labels, number, step: (
        images, labels)


def distill(
        artifact: Artifact,
        original: nn.Module,
        images: TrainingImages,
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
        images: To train on.
        settings: Optimization steps, losses and so on.
        context: The run; None: this process alone.
        budget: Bytes of both files, if they are limited: integers become cheaper as training goes on.
        bits: Of each integer, the mean that training aims for where there is no budget; None: as many as at first.
        follows_statistics: Whether BatchNorm statistics follow the training images, as the other stored tensors do.

    Returns:
        The artifact after the last step.

    Raises:
        SbsError: The loss is no longer finite.
    """
    context = context or Context()
    if artifact.storage.quantization:
        artifact = artifact.with_fixed_steps()
    trainer = _Distillation(artifact, original, images, settings, context, budget, bits, follows_statistics)
    try:
        return trainer.run()
    finally:
        trainer.objective.close()


class _Distillation:
    """One distillation: the student, its loss, and its size."""

    def __init__(
            self,
            artifact: Artifact,
            original: nn.Module,
            images: TrainingImages,
            settings: Distillation,
            context: Context,
            budget: ByteBudget | None,
            bits: float | None,
            follows_statistics: bool,
    ) -> None:
        device = context.accelerator.device
        original = original.to(device).to(memory_format=torch.channels_last)
        base = copy.deepcopy(original)
        base.load_state_dict(dict(artifact.kept), strict=False)
        self.student = GeneratedModel(
            artifact.generator, base, artifact.storage, artifact.rounded, artifact.steps, follows_statistics,
        ).to(device).to(memory_format=torch.channels_last)
        self.objective = Objective(self.student, original, settings, context.accelerator)
        self.images, self.settings, self.context, self.budget, self.bits = images, settings, context, budget, bits
        self._artifact = artifact
        self._stream: Iterator[Batch] | None = None

    def run(self) -> Artifact:
        self._follow_budget()
        self.student.train()
        optimize('distillation', self.settings, self.student.parameter_groups(self.settings), self._take_step,
                 self.context, self.student.trained_state, self.student.load_trained_state, after_step=self._after_step)
        self.student.eval()
        return self.artifact()

    def artifact(self) -> Artifact:
        """The artifact of this moment."""
        changed = dataclasses.replace(self._artifact, rounded=self.student.rounded_state())
        return changed.with_kept(self.student.model).with_results(dict(self.context.results))

    def _take_step(self, step: int) -> Tensor:
        """Generate, run ``grad_accum_steps`` batches, and go back to the predictor."""
        settings, student, accelerator = self.settings, self.student, self.context.accelerator
        if self._stream is None:  # the first step after a resume is not step 0
            self._stream = self.images.batches.starting_at(step * settings.grad_accum_steps)
        weights = student.generate(accelerator)
        total = torch.zeros((), device=accelerator.device)
        for part in range(settings.grad_accum_steps):
            images, labels = (moved(tensor, accelerator.device) for tensor in next(self._stream))
            images, labels = self.images.prepare(
                images.to(memory_format=torch.channels_last), labels, step * settings.grad_accum_steps + part, step)
            loss = self.objective(images, labels, weights, step) / settings.grad_accum_steps
            accelerator.backward(loss)
            total += loss.detach()
        student.backward(weights, accelerator, step / max(1, RATE_RAMP * settings.steps))
        accelerator.clip_grad_norm_(student.trained_parameters, settings.clip_grad)
        return total / accelerator.num_processes

    def _after_step(self, done: int) -> None:
        settings = self.settings
        last = done == settings.steps
        if last or done % settings.eval_interval == 0:
            self.student.synchronize(self.context.accelerator)
            self.context.results['distillation_steps'] = done
            excess = self._fit_into_budget() if last else self._excess()
            if last or excess <= 0:
                self.context.consider(self.artifact(), f'step {done}', self.student.materialize(), excess <= 0, done)
            self.student.train()
        if done % max(1, settings.steps // BUDGET_LOOKS) == 0:
            self._follow_budget()

    def _follow_budget(self) -> None:
        """Tell the rate how many bits integers may take."""
        rate, budget = self.student.rate, self.budget
        if rate is None:
            return
        bits = self.student.integer_bits()
        if budget is None:
            rate.set_target(bits if self.bits is None else self.bits * rate.size)
        else:
            rate.set_target(decided_once(lambda: budget.wanted_bits(self.artifact(), bits), self.context.accelerator))

    def _excess(self) -> int:
        """Bytes by which the artifact of this moment is too large."""
        budget = self.budget
        if budget is None:
            return 0
        return decided_once(lambda: budget.excess(self.artifact()), self.context.accelerator)

    def _fit_into_budget(self) -> int:
        """After the last step, when the rate can move nothing any more. Returns what :meth:`_excess` is then."""
        exact, part = {name: number.clone() for name, number in self.student.integer_state().items()}, 0.
        excess = self._excess()
        while exact and part < MOST_LEANING and excess > 0:
            part += max(LEANING, part / 4)
            self.student.lean_to_zero(exact, part)
            excess = self._excess()
        if excess > 0:
            say(self.context.accelerator, f'warning: the artifact is {excess:,} bytes larger than --bytes asks for')
        return excess
