"""The phases of a run, each with its checkpoints, measurements and artifacts."""
import copy
import dataclasses
from typing import Any, Dict, Mapping, Optional, Tuple

from torch import Tensor

from timm_sbs.artifact import record_results
from timm_sbs.bits import divide_bits, lower_bits_to_fit, measure_influence
from timm_sbs.config import QuantizationConfig
from timm_sbs.layout import with_prefix, without_prefix
from timm_sbs.training.batches import SampleBatches
from timm_sbs.training.calibration import corrected_kept, second_order_phase
from timm_sbs.training.distillation import distill
from timm_sbs.training.divergence import ExpectedDivergence
from timm_sbs.training.fit import Fit
from timm_sbs.training.generated_model import GeneratedModel
from timm_sbs.training.images import measure, synthetic_batches
from timm_sbs.training.mixing import ImageMixer
from timm_sbs.training.objective import original_outputs
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.run import LAST, PhaseMonitor
from timm_sbs.training.settings import DistillationSettings, PhaseSettings, ReconstructionSettings
from timm_sbs.training.task import Task, measure_tensors, say

__all__ = ['reconstruction_phase', 'drawn_images', 'training_images', 'image_phase', 'quantization_phase']

SELECTION_BYTES = 128  # by which config.json grows when a phase has ended
BUDGET_INTERVAL = 100  # steps between looks at the size; bits that are lowered after the last step are not trained with

# Training batches, and the original's logits on all of them where augmentation lets these be computed once.
TrainingImages = Tuple[Any, Optional[Tensor]]


def _with_phase(settings: PhaseSettings, phase: PhaseSettings) -> Any:
    """``settings`` with steps, learning rate and optimizer of another phase."""
    return dataclasses.replace(settings, **{
        field.name: getattr(phase, field.name) for field in dataclasses.fields(PhaseSettings)})


def reconstruction_phase(
        task: Task,
        fit: Fit,
        settings: ReconstructionSettings,
        name: str = 'reconstruction',
        steps_before: int = 0,
) -> None:
    """Fit the weights themselves. Without steps, a fresh predictor still learns the scale of the weights."""
    run, accelerator = task.run, task.run.accelerator
    monitor = PhaseMonitor(
        run, name,
        tensors=lambda: with_prefix('predictor.', fit.predictor.state_dict()),
        load=lambda tensors: fit.predictor.load_state_dict(without_prefix('predictor.', tensors)),
        steps_before=steps_before)
    run.results.update(reconstruct(
        fit.predictor, fit.plan, task.original.state_dict(), settings, task.seed, accelerator, monitor,
        fit.config.quantization if name == 'quantization' else None))
    run.results[f'{name}_seconds'] = round(run.seconds, 1)
    say(accelerator, f"{name}: error {run.results['reconstruction_error']:.4f} after "
                        f"{run.results[f'{name}_seconds']} s")
    accelerator.free_memory()  # the optimizer
    measured: Dict[str, float] = {}
    if name == 'reconstruction' and task.settings.takes_statistics:  # else the next phase begins with a measurement
        measured = measure_tensors(task, fit.stored_weights(), name)
    run.add_row({'phase': name, 'step': settings.steps, **monitor.last, **measured})


def drawn_images(task: Task, fit: Fit) -> Optional[SampleBatches]:
    """Images that a run draws instead of reading them, if it does, and has a use for them."""
    run, settings, original = task.run, task.settings, task.original
    if not (settings.data_free and (settings.takes_statistics or settings.trains_on_images)):
        return None
    original.to(run.accelerator.device)
    return synthetic_batches(settings, original, fit.pretrained_cfg, run.accelerator, run.checkpoints, task.seed)


def training_images(task: Task, drawn: Optional[SampleBatches]) -> TrainingImages:
    """Batches of the images that a run reads, or has drawn."""
    run, settings, original = task.run, task.settings, task.original
    original.to(run.accelerator.device)
    batches = drawn or task.images.train
    cached = None
    fixed = settings.data.no_aug and not settings.data.mixes and settings.distillation.train_size is None
    if fixed and isinstance(batches, SampleBatches) and not any(settings.distillation.feature_weight):
        cached = original_outputs(original, batches.in_order(), len(batches.dataset), run.accelerator)
    return batches, cached


def image_phase(
        task: Task,
        fit: Fit,
        kept: Optional[Mapping[str, Tensor]],
        training: Optional[TrainingImages],
        name: str = 'distillation',
) -> Dict[str, Tensor]:
    """Fit the predictions of the original, keeping the best and the last artifact. Without steps, only keep one.

    Args:
        task: The run, its original, its images and settings.
        fit: The predictor. With a quantization, everything is rounded, in training, measuring and keeping.
        kept: Kept tensors to start from; None: the original's.
        training: What :func:`training_images` returns; None: only measure and keep.
        name: 'distillation' or 'quantization'.

    Returns:
        The kept tensors after the last step.
    """
    run, original, validation = task.run, task.original, task.images.validation
    accelerator, results = run.accelerator, run.results
    phase: DistillationSettings = task.settings.distillation
    batches_before = 0
    if name == 'quantization':
        batches_before = task.settings.distils * phase.steps * phase.grad_accum_steps
        phase = _with_phase(phase, task.settings.quantization)
    original.to(accelerator.device)
    base = copy.deepcopy(original)
    base.load_state_dict(kept or {}, strict=False)
    student = GeneratedModel(
        fit.predictor, fit.plan, base, phase.train_kept, fit.config.quantization).to(accelerator.device)

    def keep() -> None:
        run.keep(lambda r: fit.quantized(student.quantization).artifact(student.model, r))

    def fit_into_budget() -> None:
        if student.quantization and task.settings.quantization.max_bytes:
            student.quantization = lower_bits_to_fit(
                fit.quantized(student.quantization).artifact(student.model, results),
                task.settings.quantization.max_bytes - SELECTION_BYTES)
            results['layer_bits'] = list(student.quantization.layer_bits)

    if not run.is_in(name) or not training:
        fit_into_budget()
        if validation:
            if 'original_top1' not in results:
                results['original_top1'] = measure(original, validation, accelerator, 'original').top1
                say(accelerator, f"original {results['original_top1']:.2f} %")
            start = measure(student.materialize(), validation, accelerator, 'before training')
            results.update(top1=start.top1, images=start.images)
            before = 'second_order' if 'second_order_steps' in results else 'reconstruction'
            results.setdefault(f'{before}_top1', start.top1)
            when = f'before {name}: ' if training and phase.steps else ''
            say(accelerator, f'{when}top-1 {start.top1:.2f} %')
        keep()
        if validation:
            run.add_row({'phase': name if training else 'end', 'step': 0, 'top1': start.top1})
    if not training or not phase.steps:
        return student.kept_state()

    def validate(step: int) -> Mapping[str, float]:
        results[f'{name}_steps'] = step
        fit_into_budget()
        if validation:
            results['top1'] = measure(student.materialize(), validation, accelerator).top1
            results['validations'] = results.get('validations', 0) + 1
            say(accelerator, f"step {step}: top-1 {results['top1']:.2f} %")
        keep()
        return {'top1': results['top1']} if validation else {}

    def load(tensors: Mapping[str, Tensor]) -> None:
        student.predictor.load_state_dict(without_prefix('predictor.', tensors))
        student.model.load_state_dict(without_prefix('kept.', tensors), strict=False)

    monitor = PhaseMonitor(
        run, name,
        tensors=lambda: {
            **with_prefix('predictor.', student.predictor.state_dict()),
            **with_prefix('kept.', student.kept_state())},
        load=load, steps_before=task.settings.steps_before(name), validate=validate,
        adjust=lambda step: fit_into_budget() if step % BUDGET_INTERVAL == 0 else None)
    batches, cached = training
    data = task.settings.data
    mixer = ImageMixer(
        data.mixup, data.cutmix, fit.pretrained_cfg['num_classes'], task.seed, accelerator.process_index,
        labelled=any(phase.label_weight))
    distill(student, original, batches, phase, accelerator, monitor, cached, name, batches_before, mixer)
    accelerator.free_memory()
    if validation and accelerator.is_main_process:
        selection = {'validations': results['validations'], 'last_top1': results['top1']}
        for folder in (run.output, run.output / LAST):
            record_results(folder, selection)
        run.best.update(selection)
    return student.kept_state()


def _within_budget(task: Task, fit: Fit) -> Fit:
    """The same predictor with as many bits less as both files need, before training and corrections rely on them."""
    run, max_bytes = task.run, task.settings.quantization.max_bytes
    if max_bytes is None:
        return fit
    artifact = fit.artifact(task.original, run.results)
    fit = fit.quantized(lower_bits_to_fit(artifact, max_bytes - SELECTION_BYTES))
    run.results['layer_bits'] = list(fit.config.quantization.layer_bits)
    return fit


def quantization_phase(
        task: Task,
        fit: Fit,
        kept: Optional[Mapping[str, Tensor]],
        training: Optional[TrainingImages],
        divergence: Optional[ExpectedDivergence] = None,
) -> None:
    """Divide the bits between the predictor's layers, and go on with everything rounded.

    Args:
        task: The run.
        fit: The predictor.
        kept: Kept tensors to start from; None: the original's.
        training: What :func:`training_images` returns; None: training goes on without images.
        divergence: The second-order loss, if there are statistics. It divides the bits, is the loss where no images
            are trained on, and corrects biases for the rounded weights, unless distillation has trained them.
    """
    name, run, settings = 'quantization', task.run, task.settings
    if run.is_in(name):
        bits = tuple(run.results['layer_bits'])
    else:
        bits, why = settings.quantization.layer_bits, 'as in the artifact to start from'
        if not bits:
            influence = measure_influence(fit.predictor, fit.plan, divergence and divergence.of_changes)
            bits = divide_bits(influence, settings.quantization.bits)
            why = f"by the {'divergence' if divergence else 'error'} that rounding it makes"
        run.results['layer_bits'] = list(bits)
        run.best = {}  # what is larger does not compete
        say(run.accelerator, f"bits of each layer, {why}: {', '.join(f'{b:.2f}' for b in bits)}")
    fit = fit.quantized(QuantizationConfig(bits, kept_bits=settings.quantization.kept_bits))
    if not run.is_in(name):
        fit = _within_budget(task, fit)
    if not settings.rounds_on_images and settings.quantization.steps:
        if divergence:
            second_order_phase(
                task, fit, divergence, _with_phase(settings.second_order, settings.quantization), name)
            fit = _within_budget(task, fit)
        else:
            reconstruction_phase(
                task, fit, _with_phase(settings.reconstruction, settings.quantization), name,
                settings.steps_before(name))
    if divergence and not settings.distils:
        kept = corrected_kept(task.original, divergence, fit.stored_weights())
    image_phase(task, fit, kept, training if settings.rounds_on_images else None, name)
