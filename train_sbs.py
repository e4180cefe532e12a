#!/usr/bin/env python3
"""Fit a predictor to the convolution weights of a timm CNN, and write it as an artifact that timm can load.

Without images the predictor is fitted to the weights alone (reconstruction). With images, which need no labels, it is
then fitted so that errors of the weights change predictions least (second order), and trained so that the generated
model predicts what the original predicts (distillation); --data-free draws the images itself.

    python train_sbs.py --model resnet18 --pct 15 --output out/resnet18
    accelerate launch train_sbs.py --recipe cifar10 --model resnet20_cifar10 --data-dir cifar10 --output out/resnet20
    accelerate launch train_sbs.py --model resnet18 --pct 15 --data-free inversion --output out/resnet18

    import timm, timm_sbs
    model = timm.create_model('local-dir:out/resnet20', pretrained=True)
"""
import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from accelerate import Accelerator
from timm.data import resolve_data_config

from timm_sbs.artifact import Artifact, load_artifact
from timm_sbs.config import GRANULARITIES, SbsConfig
from timm_sbs.errors import SbsError
from timm_sbs.ordering import fold_of
from timm_sbs.publish import create_repository, push_to_hub
from timm_sbs.targets import TargetSpec
from timm_sbs.training import arguments
from timm_sbs.training.budget import TRIAL_BITS, divide_budget
from timm_sbs.training.calibration import corrected_kept, open_divergence, second_order_phase, statistics_bytes, \
    trace_uses
from timm_sbs.training.checkpoints import Checkpoint, Checkpoints, recorded_setting
from timm_sbs.training.configuration import Settings, args_yaml, parse_args, settings_of
from timm_sbs.training.environment import environment
from timm_sbs.training.feature_maps import feature_modules
from timm_sbs.training.fit import Fit, continue_fit, design, predictor_parameters, start_fit
from timm_sbs.training.forecast import forecast_sizes
from timm_sbs.training.image_size import check_sizes
from timm_sbs.training.images import open_images
from timm_sbs.training.optimizer import make_optimizer
from timm_sbs.training.orderings import find_orderings
from timm_sbs.training.original import load_original
from timm_sbs.training.output import prepare_output, write_text
from timm_sbs.training.phases import drawn_images, image_phase, quantization_phase, reconstruction_phase, \
    training_images
from timm_sbs.training.plan import describe_plan
from timm_sbs.training.precision import settle_precision
from timm_sbs.training.resume import folder_name, unchanging_settings
from timm_sbs.training.run import Run
from timm_sbs.training.settings import WHOLE_STEPS
from timm_sbs.training.sharing import make_accelerator
from timm_sbs.training.synthetic import batch_norms
from timm_sbs.training.task import Task, say
from timm_sbs.training.weight_uses import Use


def build_parser() -> argparse.ArgumentParser:
    return arguments.build_parser(__doc__)


def _open_checkpoints(args: argparse.Namespace, accelerator: Accelerator) -> Checkpoints:
    """Raises SbsError where checkpoints of another run would be in the way."""
    checkpoints = Checkpoints(
        Path(args.output), accelerator, unchanging_settings(args, accelerator.mixed_precision),
        args.checkpointing_steps, args.checkpoints_total_limit)
    if checkpoints.found() and not args.resume:
        raise SbsError(
            f"'{args.output}' holds checkpoints of an earlier run. Go on from them with --resume latest, or choose "
            f'another --output.')
    return checkpoints


def _check_before_work(settings: Settings, original: torch.nn.Module) -> None:
    """Raises SbsError for what would otherwise be found only when a later phase begins."""
    for phase in (settings.reconstruction, settings.second_order, settings.distillation, settings.quantization):
        make_optimizer([torch.nn.Parameter(torch.zeros(1))], phase)
    if settings.trains_on_images and any(settings.distillation.feature_weight):
        feature_modules(original, settings.distillation.feature_modules)
    sizes = settings.distillation.train_size
    if settings.trains_on_images and sizes:
        check_sizes(original, sizes, resolve_data_config(pretrained_cfg=dict(original.pretrained_cfg))['input_size'])
    if settings.data_free == 'inversion':
        batch_norms(original)


def _start_trackers(args: argparse.Namespace, accelerator: Accelerator) -> None:
    started = {str(getattr(tracker, 'value', tracker)) for tracker in accelerator.log_with}
    for name in args.report_to:
        if name not in started | {'all'}:
            raise SbsError(f"--report-to {name} needs a package that is not installed: pip install {name}")
    accelerator.init_trackers('timm_sbs', config={
        name: value if isinstance(value, (int, float, str)) else str(value) for name, value in vars(args).items()})


def _design(
        args: argparse.Namespace,
        settings: Settings,
        original: torch.nn.Module,
        accelerator: Accelerator,
        checkpoint: Optional[Checkpoint],
) -> Tuple[SbsConfig, Dict[str, Any], List[TargetSpec], Optional[float]]:
    """Configuration, timm's pretrained_cfg, generated weights, and bits of a packed predictor.

    A resumed run keeps the division of the budget that it began with.
    """
    def choose(granularity: str, bits: Optional[float]) -> Dict[str, Any]:
        return {'model_args': args.model_kwargs, **settings.predictor.arguments(granularity, bits)}

    granularity, bits = args.granularity, args.bits
    if checkpoint and args.bytes:
        granularity, bits = (checkpoint.progress['results'][name] for name in ('granularity', 'bits'))
    if args.bytes and not (granularity and bits):
        config, pretrained_cfg, specs = divide_budget(
            original, args.bytes, choose, [granularity] if granularity else GRANULARITIES,
            [bits] if bits else TRIAL_BITS, accelerator,
            say=lambda text: say(accelerator, text),
            images_follow=settings.trains_on_images and not granularity)
        return config, pretrained_cfg, specs, config.quantization.layer_bits[0]
    granularity = granularity or 'layer'
    return *design(
        original, pct=args.pct, bits=bits, max_bytes=args.bytes, **choose(granularity, bits)), bits


def _start_fit(run: Run, original: torch.nn.Module, config: Any, pretrained_cfg: Any, specs: Any, seed: int) -> Fit:
    """A fresh predictor over orderings that are found once in a run, however often it is resumed."""
    def find() -> Dict[str, torch.Tensor]:
        permutations = find_orderings(original, specs, config.ordering, run.accelerator)
        return {f'{layer}.{part}': torch.from_numpy(rows)
                for layer, parts in enumerate(permutations) for part, rows in enumerate(parts)}

    found = run.checkpoints.once('orderings', find)
    parts = [sum(name.startswith(f'{layer}.') for name in found) for layer in range(len(specs))]
    permutations = [
        tuple(found[f'{layer}.{part}'].numpy() for part in range(count)) for layer, count in enumerate(parts)]
    return start_fit(config, pretrained_cfg, specs, permutations, seed)


def _provenance(args: argparse.Namespace, original: torch.nn.Module) -> Dict[str, str]:
    """What a card says of the original weights and of the images, where it is known."""
    known = {}
    hub_id = original.pretrained_cfg.get('hf_hub_id')
    if hub_id and not args.initial_checkpoint:
        known['original_hub_id'] = hub_id
    if args.dataset or args.data_dir:
        known['dataset'] = args.dataset.rpartition('/')[2] or folder_name(args.data_dir)
    if args.unlabelled_dir:
        known['unlabelled'] = ', '.join(map(folder_name, args.unlabelled_dir))
    return known


def _run_phases(task: Task, fit: Fit, artifact: Optional[Artifact], uses: Mapping[str, Use]) -> None:
    """All phases that are asked for and not yet done."""
    settings, this_run = task.settings, task.run
    kept = artifact.kept if artifact else None
    later = this_run.is_in('distillation') or this_run.is_in('quantization')
    if not (later or this_run.is_in('second-order')) and (settings.reconstruction.steps or not artifact):
        reconstruction_phase(task, fit, settings.reconstruction)
    drawn = drawn_images(task, fit)
    divergence = None
    if settings.takes_statistics and (not later or settings.quantizes):
        divergence = open_divergence(task, fit, uses, drawn)
    if divergence and not later:
        second_order_phase(task, fit, divergence, settings.second_order)
        kept = corrected_kept(task.original, divergence, fit.stored_weights())
    training = training_images(task, drawn) if settings.trains_on_images else None
    if not this_run.is_in('quantization') and (settings.distils or not settings.quantizes):
        kept = image_phase(task, fit, kept, training if settings.distils else None)
    if settings.quantizes:
        quantization_phase(task, fit, kept, training, divergence)


def _with_second_order(
        args: argparse.Namespace,
        settings: Settings,
        config: SbsConfig,
        specs: Sequence[TargetSpec],
        uses: Mapping[str, Use],
        accelerator: Accelerator,
) -> Settings:
    """The settings with the steps that the second-order phase takes for this network."""
    if not uses:
        say(accelerator, 'No generated weight is used as it is by a convolution or linear layer, so there is no '
                         'second-order phase.')
        return settings.with_second_order_steps(0)
    if any(fold_of(spec, config.ordering) > 1 for spec in specs):
        if args.second_order_steps is None:
            settings = settings.with_second_order_steps(WHOLE_STEPS)
        if args.quantization_steps is None and not settings.rounds_on_images:
            settings = dataclasses.replace(
                settings, quantization=dataclasses.replace(settings.quantization, steps=WHOLE_STEPS))
    return settings


def run(args: argparse.Namespace) -> Dict[str, Any]:
    """Fit a predictor as the arguments say.

    Returns:
        Measured results of the best artifact, as they stand in its config.json.

    Raises:
        SbsError: Something about the request is wrong; nothing half-written is left.
    """
    artifact = load_artifact(args.start_from) if args.start_from else None
    settings = settings_of(args, artifact.config.quantization if artifact and not args.bits else None)
    precision = settle_precision(
        args.mixed_precision, recorded_setting(Path(args.output), args.resume, 'mixed_precision'))
    accelerator = make_accelerator(
        precision.precision, log_with=list(args.report_to) or None, project_dir=args.output)
    original = load_original(args.model, args.initial_checkpoint, args.model_kwargs, args.license)
    checkpoints = _open_checkpoints(args, accelerator)
    checkpoint = checkpoints.open(args.resume) if args.resume else None
    if artifact:
        config, pretrained_cfg, specs = artifact.config, artifact.pretrained_cfg, artifact.specs
        bits = args.bits
    else:
        config, pretrained_cfg, specs, bits = _design(args, settings, original, accelerator, checkpoint)
    if bits:
        settings = settings.with_bits(bits)
    uses: Mapping[str, Use] = {}
    if settings.takes_statistics:
        uses = trace_uses(original, pretrained_cfg, specs)
        settings = _with_second_order(args, settings, config, specs, uses, accelerator)
    _check_before_work(settings, original)
    images = open_images(settings, pretrained_cfg, accelerator, args.seed)
    chosen = f'precision: {precision.precision} ({precision.why})'
    if args.dry_run:
        if accelerator.is_main_process:
            print(chosen, describe_plan(
                args.model, original, config, pretrained_cfg, specs, settings, accelerator,
                images.sample[1] if images.sample else None), sep='\n')
        return {}
    total = sum(p.numel() for p in original.parameters())
    size = predictor_parameters(config, specs)
    steps = settings.steps_before('end')
    kept_checkpoints = args.checkpoints_total_limit or steps // (args.checkpointing_steps or steps + 1)
    float_config = dataclasses.replace(config, quantization=None)
    largest = forecast_sizes(float_config, pretrained_cfg, specs, original.state_dict())['total']
    output = prepare_output(
        args.output, largest, kept_checkpoints, statistics_bytes(uses) if args.checkpointing_steps else 0)
    if args.push_to_hub and accelerator.is_main_process:
        create_repository(args.hub_model_id, args.hub_private)
    _start_trackers(args, accelerator)
    if accelerator.is_main_process:
        write_text(output / 'args.yaml', args_yaml(args))
        print(chosen)
        if not settings.has_images:
            print('No images (--data-dir, --dataset, --unlabelled-dir, --data-free): the predictor is fitted to the '
                  'weights alone, and settings of the other phases change nothing.')
        print(f'{args.model}: {len(specs)} of its weights are generated ({sum(s.num_weights for s in specs):,} of '
              f'{total:,} parameters), by a predictor of {size:,} parameters ({100 * size / total:.1f} %).', flush=True)

    results = {
        'seed': args.seed, 'reconstruction_steps': settings.reconstruction.steps,
        'granularity': config.ordering.granularity, **({'bits': bits} if bits else {}),
        **({'max_bytes': args.bytes} if args.bytes else {}), 'mixed_precision': accelerator.mixed_precision,
        'predictor_parameters': size, 'original_parameters': total,
        **({'data_free': args.data_free} if args.data_free else {}),
        **_provenance(args, original),
        **({'started_from': artifact.config.results} if artifact else {}),
        **environment(accelerator.device, accelerator.num_processes)}
    this_run = Run(output, accelerator, checkpoints, results, checkpoint)
    if artifact:
        fit = continue_fit(artifact, original)
    else:
        fit = _start_fit(this_run, original, float_config, pretrained_cfg, specs, args.seed)
    fit.predictor.to(accelerator.device)
    _run_phases(Task(this_run, original, images, settings, args.seed), fit.quantized(None), artifact, uses)
    best = this_run.best
    if accelerator.is_main_process:
        if 'last_top1' in best:
            print(f"best top-1 {best['top1']:.2f} %, after the last step {best['last_top1']:.2f} % "
                  f"(original {best['original_top1']:.2f} %)")
        print(f"wrote {output}; load it with timm.create_model('local-dir:{output}', pretrained=True)")
        if args.push_to_hub:
            print(f'uploaded to {push_to_hub(output, args.hub_model_id, args.hub_private)}')
    accelerator.end_training()
    return best


def main(argv: Optional[List[str]] = None) -> int:
    try:
        run(parse_args(build_parser(), sys.argv[1:] if argv is None else argv))
    except SbsError as e:
        print(f'train_sbs.py: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
