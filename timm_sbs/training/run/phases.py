"""The phases of a run, each with its checkpoints, measurements and artifacts."""
import dataclasses
from collections.abc import Mapping

from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.codec.bit_allocation import divide_bits, measure_influence
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.common.prefixes import with_prefix, without_prefix
from timm_sbs.common.progress import say
from timm_sbs.data.batches import SampleBatches
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.run.calibration import corrected_kept, second_order_phase
from timm_sbs.training.run.image_phase import (
    ImagePhase,
    TrainingImages,
    byte_budget,
    results_with_room,
    with_phase,
)
from timm_sbs.training.run.images import synthetic_batches
from timm_sbs.training.run.run import PhaseMonitor
from timm_sbs.training.run.task import Task, measure_tensors
from timm_sbs.training.steps.objective import original_outputs
from timm_sbs.training.steps.reconstruction import reconstruct

__all__ = ['reconstruction_phase', 'drawn_images', 'training_images', 'quantization_phase']


def reconstruction_phase(
        task: Task,
        artifact: Artifact,
        settings: ReconstructionSettings,
        name: str = 'reconstruction',
        steps_before: int = 0,
) -> None:
    """Fit the weights themselves. Without steps its error is told."""
    run, accelerator = task.run, task.run.accelerator
    predictor = artifact.generator.predictor
    monitor = PhaseMonitor(
        run, name,
        tensors=lambda: with_prefix('predictor.', predictor.state_dict()),
        load=lambda tensors: predictor.load_state_dict(without_prefix('predictor.', tensors)),
        steps_before=steps_before)
    storage = artifact.storage if name == 'quantization' else artifact.quantized(None).storage
    error = reconstruct(
        artifact.generator, task.original.state_dict(), settings, storage, task.seed, accelerator, monitor, name)
    run.results.update({f'{name}_error': error, f'{name}_steps': settings.steps,
                        f'{name}_seconds': round(run.seconds, 1)})
    say(accelerator, f"{name}: error {error:.4f} after {run.results[f'{name}_seconds']} s")
    accelerator.free_memory()  # the optimizer
    measured: dict[str, float] = {}
    if name == 'reconstruction' and task.settings.takes_statistics:  # else the next phase begins with a measurement
        measured = measure_tensors(task, artifact.stored_weights(), name)
    run.add_row({'phase': name, 'step': settings.steps, **monitor.last, **measured})


def drawn_images(task: Task, artifact: Artifact) -> SampleBatches | None:
    """Images that a run draws instead of reading them, if it does, and has a use for them."""
    run, settings, original = task.run, task.settings, task.original
    if not (settings.data_free and (settings.takes_statistics or settings.trains_on_images)):
        return None
    original.to(run.accelerator.device)
    return synthetic_batches(
        settings, original, artifact.base.pretrained_cfg, run.accelerator, run.checkpoints, task.seed)


def _outputs_are_fixed(settings: Settings) -> bool:
    """Whether the original's outputs on training images can be computed once: these are the same in each pass, and no
    feature maps are compared."""
    data, distillation = settings.data, settings.distillation  # of drawn images none is the same twice
    return (data.no_aug and not data.mixes and not settings.data_free and distillation.train_size is None
            and not any(distillation.feature_weight))


def training_images(task: Task) -> TrainingImages:
    """Batches of the images that a run reads, or has drawn."""
    run, settings, original = task.run, task.settings, task.original
    original.to(run.accelerator.device)
    batches = task.drawn or task.images.train
    if batches is None:
        raise SbsError('There are no images to train on.')
    cached = None
    if _outputs_are_fixed(settings) and isinstance(batches, SampleBatches):
        cached = original_outputs(original, batches.in_order(), len(batches.dataset), run.accelerator)
    return TrainingImages(batches, cached)


def _with_fixed_steps(task: Task, artifact: Artifact) -> Artifact:
    """The artifact with fixed steps: found once in a run, however often it is resumed."""
    steps = task.run.checkpoints.load_or_compute('steps', lambda: artifact.with_fixed_steps().steps)
    return dataclasses.replace(artifact, steps=steps)


def _within_budget(task: Task, artifact: Artifact) -> Artifact:
    """The same predictor with as many bits less as both files need, before training and corrections rely on them."""
    run, budget = task.run, byte_budget(task, artifact)
    if budget is None or task.settings.rounds_on_images:
        return artifact
    fitted = decided_once(
        lambda: budget.fitted(artifact.with_kept(task.original).with_results(results_with_room(task))),
        run.accelerator)
    run.results['layer_bits'] = list(fitted.layer_bits)
    return artifact.quantized(fitted)


def _divided_bits(task: Task, artifact: Artifact, divergence: ExpectedDivergence | None) -> tuple[float, ...]:
    """Bits of each layer of the predictor, as the settings say or by what rounding it does."""
    settings, accelerator = task.settings.quantization, task.run.accelerator
    bits, why = settings.layer_bits, 'as in the artifact to start from'
    if not artifact.generator.names:
        return ()
    if not bits:
        def divide() -> tuple[float, ...]:
            if settings.bits is None:
                raise ConfigError('Nothing says how many bits the predictor is to have: --bits or --bytes does.')
            influence = measure_influence(artifact.generator, divergence.of_changes if divergence else None)
            return divide_bits(influence, settings.bits)

        bits = decided_once(divide, accelerator)
        why = f"by the {'divergence' if divergence else 'error'} that rounding it makes"
    say(accelerator, f"bits of each layer, {why}: {', '.join(f'{b:.2f}' for b in bits)}")
    return bits


def quantization_phase(
        task: Task,
        artifact: Artifact,
        kept: Mapping[str, Tensor] | None,
        training: TrainingImages | None,
        divergence: ExpectedDivergence | None = None,
        source: Artifact | None = None,
) -> None:
    """Divide the bits between the predictor's layers, and go on with everything rounded.

    Args:
        task: The run.
        artifact: With the predictor.
        kept: Kept tensors to start from; None: the original's.
        training: What :func:`training_images` returns; None: training goes on without images.
        divergence: The second-order loss, if there are statistics. It divides the bits, is the loss where no images
            are trained on, and corrects biases for the rounded weights, unless distillation has trained them.
        source: The artifact that the run started from, whose steps are kept where its bits are.
    """
    name, run, settings = 'quantization', task.run, task.settings
    resumed = run.is_in(name)
    if resumed:
        bits = tuple(run.results['layer_bits'])
    else:
        bits = _divided_bits(task, artifact, divergence)
        run.results['layer_bits'] = list(bits)
        run.best = {}  # what is larger does not compete
    artifact = artifact.quantized(QuantizationConfig(bits, kept_bits=settings.quantization.kept_bits))
    if task.settings.quantization.layer_bits is not None and source:
        artifact = dataclasses.replace(artifact, steps=source.steps)
    if not resumed:
        artifact = _within_budget(task, artifact)
    if artifact.generator.names and not settings.rounds_on_images and settings.quantization.steps:
        if divergence:
            phase = with_phase(settings.second_order, settings.quantization)
            second_order_phase(task, artifact, divergence, phase, name)
        else:
            reconstruction_phase(
                task, artifact, with_phase(settings.reconstruction, settings.quantization), name,
                settings.steps_before(name))
    artifact = _within_budget(task, artifact)
    if settings.rounds_on_images and settings.quantization.steps:
        artifact = _with_fixed_steps(task, artifact)
    if divergence and not settings.distils:
        kept = corrected_kept(task.original, divergence, artifact.stored_weights())
    ImagePhase(task, artifact, kept, name).run(training if settings.rounds_on_images else None)
