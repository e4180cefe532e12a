"""One run of the trainer, from its flags to the artifact."""
import argparse
import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import CONFIG_NAME, artifact_bytes, load_artifact, read_config, written_ledger
from timm_sbs.artifact.lost import lost_function
from timm_sbs.artifact.original import load_original
from timm_sbs.artifact.provenance import proved_description
from timm_sbs.artifact.push import create_repository, push_to_hub
from timm_sbs.common.cores import threads_for_cores
from timm_sbs.common.distributed import decided_once, make_accelerator, processes
from timm_sbs.common.products import float32_products
from timm_sbs.common.progress import say
from timm_sbs.common.results import Results
from timm_sbs.data.outputs import outputs_of
from timm_sbs.predictor.base_model import pretrained_cfg_of
from timm_sbs.training.design.given_model import adopted, describe_as
from timm_sbs.training.design.sizing import Design, continue_artifact
from timm_sbs.training.options.parsing import args_yaml
from timm_sbs.training.options.run_settings import settings_of
from timm_sbs.training.run.calibration import (
    corrected_kept,
    make_divergence,
    open_statistics,
    second_order_phase,
    statistics_bytes,
)
from timm_sbs.training.run.checkpoints import recorded_setting
from timm_sbs.training.run.choice import HeldOut, describe_choice
from timm_sbs.training.run.dry_run import describe_dry_run
from timm_sbs.training.run.image_phase import ImagePhase
from timm_sbs.training.run.output import prepare_output, write_text
from timm_sbs.training.run.phases import (
    drawn_images,
    quantization_phase,
    reconstruction_phase,
    training_images,
)
from timm_sbs.training.run.precision import settle_precision
from timm_sbs.training.run.rounding_phase import rounding_phase
from timm_sbs.training.run.run import MEASURE, Run
from timm_sbs.training.run.start import (
    Start,
    first_results,
    open_start,
    ordered_artifact,
    start_trackers,
)
from timm_sbs.training.run.task import Task, look_at
from timm_sbs.training.run.validation import measure_on_validation

__all__ = ['train', 'dry_run', 'print_once']


def train(
        args: argparse.Namespace,
        original: nn.Module | None = None,
        whole_program: bool = True,
) -> dict[str, Any]:
    """Fit a predictor as the arguments say.

    Args:
        args: What :func:`timm_sbs.training.options.parsing.parse_args` returns.
        original: The original model; default: that which ``args.model`` names.
        whole_program: Whether nothing follows: processes then end their group, and the user hears what to do next.

    Returns:
        Measured results of the best artifact, as they stand in its config.json.

    Raises:
        SbsError: Something about the request is wrong; nothing half-written is left.
    """
    with _opened(args, original, whole_program) as start:
        return _fit(args, start, whole_program)


def dry_run(args: argparse.Namespace, original: nn.Module | None = None) -> str:
    """What :func:`train` would do with these arguments, as text. It starts nothing."""
    args = copy.copy(args)
    args.dry_run = True
    with _opened(args, original) as start:
        return describe_dry_run(args.model, start)


def print_once(text: str) -> None:
    """Print on the main process alone, also after a run has ended."""
    if processes().is_main_process:
        print(text)


@contextmanager
def _opened(args: argparse.Namespace, original: nn.Module | None, whole_program: bool = True) -> Iterator[Start]:
    """Everything before the first step. Trackers are closed in any case, and with the program its processes too."""
    source = load_artifact(args.start_from) if args.start_from else None
    settings = settings_of(args, source.storage.quantization if source and args.bits is None else None)
    output = Path(args.output)
    state = processes()  # accelerate may set threads when it starts
    threads = decided_once(lambda: recorded_setting(output, args.resume, 'threads', 'choices'), state)
    with threads_for_cores(threads), float32_products('tf32'):
        precision = settle_precision(
            args.mixed_precision, recorded_setting(output, args.resume, 'mixed_precision'))
        accelerator = make_accelerator(
            precision.precision, log_with=list(args.report_to) or None, project_dir=args.output)
        try:
            given = original
            if given is None:
                given = load_original(args.model, args.initial_checkpoint, args.model_kwargs)
            own = adopted(given, source.base.args if source else args.model_kwargs)
            by_name = args.model if original is None and not args.initial_checkpoint else None
            describe_as(own, proved_description(given, by_name, args.license, args.base_model))
            if source:
                source = continue_artifact(source, own)
            yield open_start(args, settings, accelerator, precision.told, own, source)
        finally:
            if whole_program:
                accelerator.end_training()
            else:
                for tracker in accelerator.trackers:
                    tracker.finish()


def _fit(args: argparse.Namespace, start: Start, whole_program: bool) -> dict[str, Any]:
    """All phases, and the upload."""
    settings, accelerator, original = start.settings, start.accelerator, start.original
    output = _open_output(args, start)
    if args.push_to_hub:
        decided_once(lambda: create_repository(args.hub_model_id, args.hub_private), accelerator)
    start_trackers(args, accelerator)
    if not start.checkpoint and (output / CONFIG_NAME).exists():
        say(accelerator, f'{output} holds an artifact, which this run replaces')
    if accelerator.is_main_process:
        write_text(output / 'args.yaml', args_yaml(args))
    say(accelerator, start.told)
    _describe_start(args.model, start)
    start.images.tell_notes(accelerator)
    run = Run(output, accelerator, start.checkpoints, first_results(args, start), start.checkpoint, start.choices)
    artifact = start.source or ordered_artifact(start, args.seed)
    artifact.generator.to(accelerator.device)
    chosen_from = start.images.held_out
    held_out = HeldOut(chosen_from, original, accelerator) if chosen_from else None
    task = Task(run, original, start.images, settings, args.seed, held_out)
    task = _run_phases(task, artifact.quantized(None), start)
    if settings.trains_on_images and held_out:
        say(accelerator, f'lowest divergence on held-out images {run.best[MEASURE]:.4f}, after the last step '
                         f'{run.results[MEASURE]:.4f}')
    measure_on_validation(task)
    start.images.tell_skipped(accelerator)
    results = dict(run.best)
    if task.drawn and not start.images.validation:
        accelerator.wait_for_everyone()
        results['holdout_agreement'] = look_at(task, load_artifact(output).state_dict()).agreement
    if warning := lost_function(Results.of(results)):
        say(accelerator, warning)
    if whole_program:
        say(accelerator, f"wrote {output}, {_size(output, start)}; load it with "
                         f"timm.create_model('local-dir:{output}', pretrained=True)")
    accelerator.wait_for_everyone()
    if args.push_to_hub:
        address = decided_once(lambda: push_to_hub(output, args.hub_model_id, args.hub_private), accelerator)
        say(accelerator, f'uploaded to {address}')
    return run.best


def _size(output: Path, start: Start) -> str:
    """Bytes of the artifact in a folder; nothing on processes that have written none."""
    if not start.accelerator.is_main_process:
        return ''
    size = artifact_bytes(output)
    original = written_ledger(read_config(output)[0]).original
    return f"{size:,} bytes, {original / size:.1f} times smaller than the original's values"


def _open_output(args: argparse.Namespace, start: Start) -> Path:
    """The folder of the run, if the disk has room for what it will write."""
    steps = start.settings.steps_before('end')
    kept_checkpoints = args.checkpoints_total_limit or steps // (args.checkpointing_steps or steps + 1)
    unrounded = start.design.stored_as_floats().forecast(start.original)['total']
    return prepare_output(
        args.output, unrounded, kept_checkpoints, statistics_bytes(start.uses) if args.checkpointing_steps else 0)


def _describe_start(name: str, start: Start) -> None:
    design: Design = start.design
    total = sum(p.numel() for p in start.original.parameters())
    if not start.settings.has_images:
        so = 'the predictor is fitted to the weights alone' if design.specs else \
            'errors of weights count by their relative squares'
        say(start.accelerator, f'No images were given, so {so}. --data-dir, --dataset, --unlabelled-dir and '
                               f'--data-free give them.')
    elif told := outputs_of(start.original).told:
        say(start.accelerator, told)
    if not pretrained_cfg_of(start.original).get('license'):
        say(start.accelerator, 'The licence of the weights is unknown: timm does not tell whether they are its own. '
                               'Name it with --license, and where they come from with --base-model.')
    if start.settings.trains_on_images:
        say(start.accelerator, describe_choice(start.images, start.settings))
    if design.specs:
        say(start.accelerator,
            f'{name}: {len(design.specs)} of its weights are generated ({design.num_generated:,} of {total:,} '
            f'parameters), by a predictor of {design.num_parameters:,} parameters '
            f'({100 * design.num_parameters / total:.1f} %).')
    else:
        size = sum(start.original.get_parameter(weight).numel() for weight in design.rounded)
        say(start.accelerator, f'{name}: {len(design.rounded)} of its weights are rounded ({size:,} of {total:,} '
                               f'parameters), and none is generated.')


def _run_phases(task: Task, artifact: Artifact, start: Start) -> Task:
    """All phases that are asked for and not yet done; the task with what it has drawn."""
    settings, run, source, uses = task.settings, task.run, start.source, start.uses
    kept = source.kept if source else None
    later = run.is_in('distillation') or run.is_in('quantization')
    if start.fits_weights and not (later or run.is_in('second-order')):
        reconstruction_phase(task, artifact, settings.reconstruction)
    task = dataclasses.replace(task, drawn=drawn_images(task, artifact))
    divergence = None
    if start.rounds_originals:
        artifact, kept = rounding_phase(task, artifact, uses)
    elif settings.takes_statistics and artifact.generator.names and (not later or settings.quantizes):
        divergence = make_divergence(
            task, artifact.generator.specs, uses, open_statistics(task, uses))
    if divergence and not later:
        second_order_phase(task, artifact, divergence, settings.second_order)
        kept = corrected_kept(task.original, divergence, artifact.stored_weights())
    training = training_images(task) if settings.trains_on_images else None
    if not run.is_in('quantization') and (settings.distils or not settings.quantizes):
        artifact = ImagePhase(task, artifact, kept).run(training if settings.distils else None)
        kept = artifact.kept
    if settings.quantizes:
        quantization_phase(task, artifact, kept, training, divergence, source)
    return task
