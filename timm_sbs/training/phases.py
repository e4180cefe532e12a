"""The two phases of a run, each with its checkpoints, measurements and artifacts."""
import copy
from typing import Mapping, Optional

from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.artifact import record_results
from timm_sbs.training.batches import SampleBatches
from timm_sbs.training.distillation import distill
from timm_sbs.training.fit import Fit
from timm_sbs.training.generated_model import GeneratedModel
from timm_sbs.training.images import Images, measure, synthetic_batches
from timm_sbs.training.objective import original_outputs
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.run import LAST, PhaseMonitor, Run
from timm_sbs.training.configuration import Settings

__all__ = ['reconstruction_phase', 'distillation_phase']


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _print(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        print(text, flush=True)


def reconstruction_phase(run: Run, fit: Fit, original: nn.Module, settings: Settings, seed: int) -> None:
    """Fit the weights themselves. Without steps, a fresh predictor still learns the scale of the weights."""
    accelerator = run.accelerator
    monitor = PhaseMonitor(
        run, 'reconstruction',
        tensors=lambda: _with_prefix('predictor.', fit.predictor.state_dict()),
        load=lambda tensors: fit.predictor.load_state_dict(_without_prefix('predictor.', tensors)))
    run.results.update(reconstruct(
        fit.predictor, fit.plan, original.state_dict(), settings.reconstruction, seed, accelerator, monitor))
    run.results['reconstruction_seconds'] = round(run.seconds, 1)
    run.add_row({'phase': 'reconstruction', 'step': settings.reconstruction.steps, **monitor.last})
    _print(accelerator, f"reconstruction error {run.results['reconstruction_error']:.4f} after "
                        f"{run.results['reconstruction_seconds']} s")
    accelerator.free_memory()  # the optimizer


def distillation_phase(
        run: Run,
        fit: Fit,
        original: nn.Module,
        kept: Optional[Mapping[str, Tensor]],
        images: Images,
        settings: Settings,
        seed: int,
) -> None:
    """Fit the predictions of the original, keeping the best and the last artifact.

    Args:
        run: The run.
        fit: The predictor.
        original: The original model.
        kept: Kept tensors to start from; None: the original's.
        images: Images that were opened.
        settings: Of the run.
        seed: Of the order of images and their augmentation.
    """
    accelerator, results = run.accelerator, run.results
    original.to(accelerator.device)
    base = copy.deepcopy(original)
    base.load_state_dict(kept or {}, strict=False)
    student = GeneratedModel(fit.predictor, fit.plan, base, settings.distillation.train_kept).to(accelerator.device)
    goes_on = run.is_in('distillation')
    if images.validation and not goes_on:
        results['original_top1'] = measure(original, images.validation, accelerator, 'original').top1
        start = measure(student.materialize(), images.validation, accelerator, 'reconstruction')
        results.update(reconstruction_top1=start.top1, top1=start.top1, images=start.images)
        _print(accelerator, f"original {results['original_top1']:.2f} %, reconstruction alone {start.top1:.2f} %")
    if not goes_on:
        run.keep(lambda r: fit.artifact(student.model, r))
    if not settings.distils:
        return

    batches = images.train
    if settings.data_free:
        batches = synthetic_batches(
            settings, original, fit.pretrained_cfg, accelerator, run.checkpoints, seed)
    cached = None
    if settings.data.no_aug and isinstance(batches, SampleBatches) and not any(settings.distillation.feature_weight):
        cached = original_outputs(original, batches.in_order(), len(batches.dataset), accelerator)

    def validate(step: int) -> Mapping[str, float]:
        results['distillation_steps'] = step
        if images.validation:
            results['top1'] = measure(student.materialize(), images.validation, accelerator).top1
            results['validations'] = results.get('validations', 0) + 1
            _print(accelerator, f"step {step}: top-1 {results['top1']:.2f} %")
        run.keep(lambda r: fit.artifact(student.model, r))
        return {'top1': results['top1']} if images.validation else {}

    def load(tensors: Mapping[str, Tensor]) -> None:
        student.predictor.load_state_dict(_without_prefix('predictor.', tensors))
        student.model.load_state_dict(_without_prefix('kept.', tensors), strict=False)

    monitor = PhaseMonitor(
        run, 'distillation',
        tensors=lambda: {
            **_with_prefix('predictor.', student.predictor.state_dict()),
            **_with_prefix('kept.', student.kept_state())},
        load=load, steps_before=settings.reconstruction.steps, validate=validate)
    distill(student, original, batches, settings.distillation, accelerator, monitor, cached)
    accelerator.free_memory()
    if images.validation and accelerator.is_main_process:
        selection = {'validations': results['validations'], 'last_top1': results['top1']}
        for folder in (run.output, run.output / LAST):
            record_results(folder, selection)
        run.best.update(selection)
