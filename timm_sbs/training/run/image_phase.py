"""The phases that measure on images, and train on them: distillation, and the last one with everything rounded."""
import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import record_results
from timm_sbs.artifact.quantize import ByteBudget
from timm_sbs.codec.tensor_file import with_prefix, without_prefix
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.progress import say
from timm_sbs.data.accuracy import measure
from timm_sbs.data.batches import SampleBatches, StreamBatches
from timm_sbs.data.mixing import ImageMixer
from timm_sbs.training.options.settings import DistillationSettings, PhaseSettings
from timm_sbs.training.run.run import LAST, PhaseMonitor
from timm_sbs.training.run.task import Task
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.generated_model import GeneratedModel

__all__ = ['TrainingImages', 'ImagePhase', 'byte_budget', 'with_phase']

SELECTION_BYTES = 128  # by which config.json grows when a phase has ended
BUDGET_INTERVAL = 100  # steps between looks at the size; bits that are lowered after the last step are not trained with

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
            artifact, max_bytes - SELECTION_BYTES, task.run.coded_ordering(artifact))
    return task.run.byte_budget


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
            artifact.generator, base, artifact.storage, self.settings.train_kept).to(device)
        self._artifact = artifact
        self._budget = byte_budget(task, artifact) if artifact.storage.quantization else None

    def run(self, training: TrainingImages | None) -> dict[str, Tensor]:
        """Measure, train, and measure again.

        Args:
            training: None: only measure and keep.

        Returns:
            The kept tensors after the last step.
        """
        if not self.task.run.is_in(self.name) or not training:
            self._measure_start(bool(training))
        if training and self.settings.steps:
            self._train(training)
        return self.student.kept_state()

    def artifact(self, results: Mapping[str, object]) -> Artifact:
        """The artifact of this moment."""
        return self._artifact.quantized(self.student.quantization).with_kept(self.student.model).with_results(results)

    def _fit_into_budget(self) -> None:
        if self._budget:
            budget, results = self._budget, self.task.run.results
            self.student.quantization = decided_once(
                lambda: budget.fitted(self.artifact(results)), self.task.run.accelerator)
            results['layer_bits'] = list(self.student.quantization.layer_bits)

    def _measure_start(self, trains: bool) -> None:
        run, validation = self.task.run, self.task.images.validation
        results, accelerator = run.results, run.accelerator
        self._fit_into_budget()
        if not validation:
            run.keep(self.artifact)
            return
        if 'original_top1' not in results:
            results['original_top1'] = measure(self.task.original, validation, accelerator, 'original').top1
            say(accelerator, f"original {results['original_top1']:.2f} %")
        start = measure(self.student.materialize(), validation, accelerator, 'before training')
        results.update(top1=start.top1, images=start.images)
        before = 'second_order' if 'second_order_steps' in results else 'reconstruction'
        results.setdefault(f'{before}_top1', start.top1)
        when = f'before {self.name}: ' if trains and self.settings.steps else ''
        say(accelerator, f'{when}top-1 {start.top1:.2f} %')
        run.keep(self.artifact)
        run.add_row({'phase': self.name if trains else 'end', 'step': 0, 'top1': start.top1})

    def _validate(self, step: int) -> Mapping[str, float]:
        run, validation = self.task.run, self.task.images.validation
        results = run.results
        results[f'{self.name}_steps'] = step
        self._fit_into_budget()
        if validation:
            results['top1'] = measure(self.student.materialize(), validation, run.accelerator).top1
            results['validations'] = results.get('validations', 0) + 1
            say(run.accelerator, f"step {step}: top-1 {results['top1']:.2f} %")
        run.keep(self.artifact)
        return {'top1': results['top1']} if validation else {}

    def _adjust(self, step: int) -> None:
        if step % BUDGET_INTERVAL == 0:
            self._fit_into_budget()

    def _tensors(self) -> Mapping[str, Tensor]:
        return {
            **with_prefix('predictor.', self.student.predictor.state_dict()),
            **with_prefix('kept.', self.student.kept_state())}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.student.predictor.load_state_dict(without_prefix('predictor.', tensors))
        self.student.model.load_state_dict(without_prefix('kept.', tensors), strict=False)

    def _train(self, training: TrainingImages) -> None:
        run, data = self.task.run, self.task.settings.data
        accelerator = run.accelerator
        monitor = PhaseMonitor(
            run, self.name, tensors=self._tensors, load=self._load,
            steps_before=self.task.settings.steps_before(self.name), validate=self._validate, adjust=self._adjust)
        mixer = ImageMixer(
            data.mixup, data.cutmix, self._artifact.base.pretrained_cfg['num_classes'], self.task.seed,
            accelerator.process_index, labelled=any(self.settings.label_weight))
        distill(
            self.student, self.task.original, training.batches, self.settings, accelerator, monitor,
            training.cached_outputs, self.name, self.batches_before, mixer)
        accelerator.free_memory()
        if self.task.images.validation:
            selection = {'validations': run.results['validations'], 'last_top1': run.results['top1']}
            run.best.update(selection)
            if accelerator.is_main_process:
                for folder in (run.output, run.output / LAST):
                    record_results(folder, selection)
