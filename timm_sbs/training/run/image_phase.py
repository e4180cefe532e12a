"""The phases that measure on images, and train on them: distillation, and the last one with everything rounded."""
import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.quantize import ByteBudget
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.prefixes import with_prefix, without_prefix
from timm_sbs.common.progress import say
from timm_sbs.data.batches import SampleBatches, StreamBatches
from timm_sbs.data.mixing import ImageMixer
from timm_sbs.training.options.settings import DistillationSettings, PhaseSettings
from timm_sbs.training.run.choice import held_out_results
from timm_sbs.training.run.run import PhaseMonitor
from timm_sbs.training.run.task import Task
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.generated_model import GeneratedModel

__all__ = ['TrainingImages', 'ImagePhase', 'byte_budget', 'results_with_room', 'with_phase']

DIGITS_BYTES = 32  # by which config.json may grow when bits are lowered, for it says them twice
# What is measured after bits were fitted into a budget, as long as it can be in config.json.
HELD_OUT_RESULTS = {'holdout_images': 9_999_999, 'holdout_divergence': 1.23456e-05, 'holdout_agreement': 99.999}
VALIDATION_RESULTS = dict.fromkeys(('top1', 'original_top1', 'agreement'), 100 / 3) | {'images': 9_999_999}
BUDGET_LOOKS = 10  # at the size, in a phase: to code the integers of ResNet-18 takes seconds
# Of a step: by how much rounding leans to zero, at least and at most, where the last artifact is too large.
LEANING, MOST_LEANING = 0.01, 1.

PhaseT = TypeVar('PhaseT', bound=PhaseSettings)


@dataclass(frozen=True)
class TrainingImages:
    """Training batches, and the original's logits on all of them where augmentation lets these be computed once."""
    batches: SampleBatches | StreamBatches
    cached_outputs: Tensor | None = None


def with_phase(settings: PhaseT, phase: PhaseSettings) -> PhaseT:
    """``settings`` with steps, learning rate and optimizer of another phase."""
    return dataclasses.replace(settings, **{
        field.name: getattr(phase, field.name) for field in dataclasses.fields(PhaseSettings)})


def byte_budget(task: Task, artifact: Artifact) -> ByteBudget | None:
    """The byte budget of a run, if it has one. It is made once, for that takes a second for a million kernels."""
    max_bytes = task.settings.quantization.max_bytes
    if max_bytes is not None and task.run.byte_budget is None:
        task.run.byte_budget = ByteBudget(
            artifact, max_bytes - DIGITS_BYTES, task.run.coded_ordering(artifact))
    return task.run.byte_budget


def results_with_room(task: Task) -> dict[str, Any]:
    """The results of this moment, with those that a quantized artifact will have beside them in its place: a budget of
    bytes is for all of config.json."""
    return {
        **task.run.results, 'quantization_steps': task.settings.quantization.steps,
        **(HELD_OUT_RESULTS if task.held_out else {}), **(VALIDATION_RESULTS if task.images.validation else {})}


class ImagePhase:
    """Fits the predictions of the original, keeping the best and the last artifact. Without steps, only keeps one."""

    def __init__(
            self,
            task: Task,
            artifact: Artifact,
            kept: Mapping[str, Tensor] | None = None,
            name: str = 'distillation',
    ) -> None:
        """
        Args:
            task: The run, its original, its images and settings.
            artifact: With the predictor. If it is quantized, everything is rounded, in training, measuring and keeping.
            kept: Kept tensors to start from, where they are not the original's.
            name: 'distillation' or 'quantization'.
        """
        settings = task.settings
        self.task, self.name = task, name
        self.settings: DistillationSettings = settings.distillation
        self.batches_before = 0
        if name == 'quantization':
            self.batches_before = settings.distils * self.settings.steps * self.settings.grad_accum_steps
            self.settings = with_phase(self.settings, settings.quantization)
        device = task.run.accelerator.device
        base = copy.deepcopy(task.original.to(device))
        base.load_state_dict(dict(kept or {}), strict=False)
        self.student = GeneratedModel(
            artifact.generator, base, artifact.storage, self.settings.train_kept, artifact.rounded, artifact.steps,
        ).to(device)
        self._artifact = artifact
        self._budget = byte_budget(task, artifact) if artifact.storage.quantization else None

    def run(self, training: TrainingImages | None) -> Artifact:
        """Measure on held-out images, train, and measure again.

        Args:
            training: None: only measure and keep.

        Returns:
            The artifact after the last step, before anything is rounded as it will be stored.
        """
        if not self.task.run.is_in(self.name) or not training:
            self._measure_start(bool(training))
        if training and self.settings.steps:
            self._train(training)
        return self.artifact(self._artifact.results)

    def artifact(self, results: Mapping[str, object]) -> Artifact:
        """The artifact of this moment."""
        changed = dataclasses.replace(self._artifact, rounded=self.student.rounded_state())
        return changed.with_kept(self.student.model).with_results(results)

    def _follow_budget(self) -> None:
        """Tell the rate how many bits integers may take."""
        rate, budget, accelerator = self.student.rate, self._budget, self.task.run.accelerator
        if rate is None:
            return
        bits, per_number = self.student.integer_bits(), self.task.settings.quantization.bits
        if budget is None:
            rate.set_target(bits if per_number is None else per_number * rate.size)
            return
        results = results_with_room(self.task)
        rate.set_target(decided_once(lambda: budget.wanted_bits(self.artifact(results), bits), accelerator))

    def _excess(self) -> int:
        """Bytes of the artifact of this moment that are too many."""
        budget, results = self._budget, results_with_room(self.task)
        if budget is None:
            return 0
        return decided_once(lambda: budget.excess(self.artifact(results)), self.task.run.accelerator)

    def _fit_into_budget(self) -> int:
        """After the last step, when the rate can move nothing any more. Returns what :meth:`_excess` is then."""
        exact, part = {name: number.clone() for name, number in self.student.integer_state().items()}, 0.
        excess = self._excess()
        while exact and part < MOST_LEANING and excess > 0:
            part += max(LEANING, part / 4)
            self.student.lean_to_zero(exact, part)
            excess = self._excess()
        if excess > 0:
            say(self.task.run.accelerator, f'warning: the artifact is {excess:,} bytes larger than --bytes asks for')
        return excess

    def _keep(self, when: str, last: bool = False) -> Mapping[str, float]:
        """Keep the artifact of this moment, as far as can be told by how good it is. What is larger than the budget is
        not kept, unless it is the last, and is the best only of those that are."""
        run, held_out = self.task.run, self.task.held_out
        fits = (self._fit_into_budget() if last else self._excess()) <= 0
        figures: dict[str, float] = {}
        if held_out:
            found = held_out.measure(self.student.materialize())
            figures = held_out_results(found)
            run.results.update(holdout_images=held_out.count, **figures)
            say(run.accelerator, f'{when}{found} on held-out images')
        if last or fits:
            run.keep(self.artifact, fits)
        return figures

    def _measure_start(self, trains: bool) -> None:
        trains = trains and bool(self.settings.steps)
        figures = self._keep(f'before {self.name}: ' if trains else '', last=not trains)
        if figures:
            self.task.run.add_row({'phase': self.name if trains else 'end', 'step': 0, **figures})

    def _measure(self, step: int) -> Mapping[str, float]:
        self.task.run.results[f'{self.name}_steps'] = step
        return self._keep(f'step {step}: ', last=step == self.settings.steps)

    def _adjust(self, step: int) -> None:
        if step % max(1, self.settings.steps // BUDGET_LOOKS) == 0:
            self._follow_budget()

    def _tensors(self) -> Mapping[str, Tensor]:
        return {
            **with_prefix('predictor.', self.student.predictor.state_dict()),
            **with_prefix('rounded.', self.student.rounded_state()),
            **with_prefix('kept.', self.student.kept_state()),
            **(with_prefix('rate.', self.student.rate.state_dict()) if self.student.rate else {})}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.student.predictor.load_state_dict(without_prefix('predictor.', tensors))
        self.student.model.load_state_dict(without_prefix('kept.', tensors), strict=False)
        self.student.load_rounded_state(without_prefix('rounded.', tensors))
        if self.student.rate:
            self.student.rate.load_state_dict(without_prefix('rate.', tensors))

    def _train(self, training: TrainingImages) -> None:
        run, data = self.task.run, self.task.settings.data
        accelerator = run.accelerator
        self._follow_budget()  # a resumed phase goes on with the target of its checkpoint
        monitor = PhaseMonitor(
            run, self.name, tensors=self._tensors, load=self._load,
            steps_before=self.task.settings.steps_before(self.name), measure=self._measure, adjust=self._adjust)
        mixer = ImageMixer(
            data.mixup, data.cutmix, self._artifact.base.pretrained_cfg['num_classes'], self.task.seed,
            accelerator.process_index, labelled=any(self.settings.label_weight))
        distill(
            self.student, self.task.original, training.batches, self.settings, accelerator, monitor,
            training.cached_outputs, self.name, self.batches_before, mixer)
        accelerator.free_memory()
