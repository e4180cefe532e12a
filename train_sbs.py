#!/usr/bin/env python3
"""Fit a predictor to the convolution weights of a timm CNN, and write it as an artifact that timm can load.

Without images the predictor is fitted to the weights alone (reconstruction). With images it is then trained so that
the generated model predicts what the original predicts (distillation).

    python train_sbs.py --model resnet18 --pct 15 --output out/resnet18
    accelerate launch train_sbs.py --model resnet20_cifar10 --pct 20 --data-dir cifar10 --output out/resnet20

    import timm, timm_sbs
    model = timm.create_model('local-dir:out/resnet20', pretrained=True)
"""
import argparse
import copy
import platform
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import timm
import torch
from accelerate import Accelerator
from timm.utils import ParseKwargs

import timm_sbs
from timm_sbs.artifact import record_results, save_artifact
from timm_sbs.config import ACTIVATIONS, COORDINATES, ENCODINGS, GRANULARITIES, STORAGE_DTYPES, EncodingConfig, \
    OrderingConfig, TargetRule
from timm_sbs.errors import SbsError
from timm_sbs.evaluation import evaluate
from timm_sbs.training.data import DataSettings, eval_loader, train_loader
from timm_sbs.training.distillation import distill
from timm_sbs.training.fit import Fit, design, find_orderings, predictor_parameters, start_fit
from timm_sbs.training.generated_model import GeneratedModel
from timm_sbs.training.original import load_original
from timm_sbs.training.reconstruction import reconstruct
from timm_sbs.training.settings import DistillationSettings, ReconstructionSettings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    group = parser.add_argument_group('original model')
    group.add_argument('--model', required=True, metavar='NAME', help='timm model whose weights are to be generated')
    group.add_argument('--initial-checkpoint', default='', metavar='FILE',
                       help="its trained weights (default: timm's pretrained weights)")
    group.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs, metavar='KEY=VALUE',
                       help='further arguments of the architecture')

    group = parser.add_argument_group('predictor')
    group.add_argument('--pct', type=float, default=20., metavar='P',
                       help="size: per cent of the original model's parameters (default: %(default)s)")
    group.add_argument('--linear-layers', type=int, default=5, metavar='N',
                       help='matrix products from features to kernel (default: %(default)s)')
    group.add_argument('--activation', choices=ACTIVATIONS, default='gelu', help='(default: %(default)s)')
    group.add_argument('--storage-dtype', choices=STORAGE_DTYPES, default='float16',
                       help='number format of the stored predictor (default: %(default)s)')
    group.add_argument('--min-weights', type=int, default=TargetRule.min_weights, metavar='N',
                       help='keep convolution weights smaller than this (default: %(default)s)')
    group.add_argument('--include', nargs='*', default=(), metavar='PATTERN',
                       help='generate weights of these names although the rule keeps them')
    group.add_argument('--exclude', nargs='*', default=(), metavar='PATTERN', help='keep weights of these names')

    group = parser.add_argument_group('ordering and encoding', 'The defaults are UOS with UOS-RFF. NeRN: --coordinates '
                                      'grid --encoding positional --activation relu.')
    group.add_argument('--granularity', choices=GRANULARITIES, default='layer',
                       help='what one kernel path runs over (default: %(default)s)')
    group.add_argument('--coordinates', choices=COORDINATES, default=None,
                       help="place on the path, or row and column of a grid (default: path for 'layer', else grid)")
    group.add_argument('--encoding', choices=ENCODINGS, default='random_fourier', help='(default: %(default)s)')
    group.add_argument('--num-frequencies', type=int, default=EncodingConfig.num_frequencies, metavar='K',
                       help='random frequencies (default: %(default)s)')
    group.add_argument('--layer-bandwidth', type=float, default=EncodingConfig.layer_bandwidth, metavar='S',
                       help='cycles along the layers (default: %(default)s)')
    group.add_argument('--bandwidth', type=float, default=EncodingConfig.bandwidth, metavar='C',
                       help='c of s = c * n^p, cycles along an axis of n kernels (default: %(default)s)')
    group.add_argument('--bandwidth-exponent', type=float, default=EncodingConfig.bandwidth_exponent, metavar='P',
                       help='p of s = c * n^p; 0 is plain RFF (default: %(default)s)')

    group = parser.add_argument_group('reconstruction')
    group.add_argument('--reconstruction-steps', type=int, default=ReconstructionSettings.steps, metavar='N',
                       help='(default: %(default)s)')
    group.add_argument('--reconstruction-batch-size', type=int, default=ReconstructionSettings.batch_size, metavar='N',
                       help='kernels of one step (default: %(default)s)')
    group.add_argument('--reconstruction-lr', type=float, default=ReconstructionSettings.lr, metavar='LR',
                       help='peak learning rate (default: %(default)s)')

    group = parser.add_argument_group('distillation')
    group.add_argument('--data-dir', default=None, metavar='DIR',
                       help='images: a folder with train/CLASS and validation/CLASS, or the root of --dataset')
    group.add_argument('--dataset', default='', metavar='NAME',
                       help="timm dataset name, such as 'torch/cifar10' (default: ImageFolder)")
    group.add_argument('--dataset-download', action='store_true', help='let --dataset download itself')
    group.add_argument('--train-split', default=DataSettings.train_split, metavar='NAME', help='(default: %(default)s)')
    group.add_argument('--val-split', default=DataSettings.val_split, metavar='NAME', help='(default: %(default)s)')
    group.add_argument('-b', '--batch-size', type=int, default=DataSettings.batch_size, metavar='N',
                       help='images of one step (default: %(default)s)')
    group.add_argument('-j', '--workers', type=int, default=DataSettings.workers, metavar='N',
                       help='processes that read images (default: %(default)s)')
    group.add_argument('--crop-padding', type=int, default=None, metavar='PX',
                       help='shift training images by up to PX pixels (default: 4 below 64 pixels, else 0: random '
                            'resized crops)')
    group.add_argument('--hflip', type=float, default=DataSettings.hflip, metavar='P',
                       help='probability of a horizontal flip (default: %(default)s)')
    group.add_argument('--distillation-steps', type=int, default=DistillationSettings.steps, metavar='N',
                       help='(default: %(default)s)')
    group.add_argument('--lr', type=float, default=DistillationSettings.lr, metavar='LR',
                       help='peak learning rate (default: %(default)s)')
    group.add_argument('--temperature', type=float, default=DistillationSettings.temperature, metavar='T',
                       help='of the softmax of both networks (default: %(default)s)')
    group.add_argument('--clip-grad', type=float, default=DistillationSettings.clip_grad, metavar='NORM',
                       help='(default: %(default)s)')
    group.add_argument('--eval-interval', type=int, default=DistillationSettings.eval_interval, metavar='N',
                       help='steps between validations; the best predictor is kept (default: %(default)s)')

    group = parser.add_argument_group('run')
    group.add_argument('--output', required=True, metavar='DIR', help='folder of the artifact')
    group.add_argument('--seed', type=int, default=0, metavar='N', help='(default: %(default)s)')
    group.add_argument('--mixed-precision', choices=('no', 'bf16', 'fp16'), default=None,
                       help="precision of the distilled networks (default: as 'accelerate launch' says)")
    return parser


def _settings(args: argparse.Namespace) -> Dict[str, Any]:
    """Checked settings from arguments, before any work is done."""
    coordinates = args.coordinates or ('path' if args.granularity == 'layer' else 'grid')
    return dict(
        ordering=OrderingConfig(args.granularity, coordinates),
        encoding=EncodingConfig(
            kind=args.encoding, num_frequencies=args.num_frequencies, layer_bandwidth=args.layer_bandwidth,
            bandwidth=args.bandwidth, bandwidth_exponent=args.bandwidth_exponent, seed=args.seed),
        rule=TargetRule(args.min_weights, tuple(args.include), tuple(args.exclude)),
        reconstruction=ReconstructionSettings(
            args.reconstruction_steps, args.reconstruction_batch_size, args.reconstruction_lr),
        distillation=DistillationSettings(
            args.distillation_steps, args.lr, args.temperature, args.clip_grad, args.eval_interval),
        data=DataSettings(
            args.data_dir, args.dataset, args.train_split, args.val_split, args.batch_size, args.workers,
            args.crop_padding, args.hflip, args.dataset_download),
    )


def _check_output(output: str) -> Path:
    """Make sure, before any long work, that the artifact can be written."""
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / '.writable'
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise SbsError(f"Cannot write to --output '{output}': {e}.") from e
    return folder


def _describe_run(args: argparse.Namespace, accelerator: Accelerator) -> Dict[str, Any]:
    """How the results came about: the part that is known before the work."""
    if accelerator.device.type == 'cuda':
        hardware = torch.cuda.get_device_name(accelerator.device)
    else:
        hardware = f'{accelerator.device.type}, {torch.get_num_threads()} threads, {platform.machine()}'
    return {
        'seed': args.seed,
        'reconstruction_steps': args.reconstruction_steps,
        'mixed_precision': accelerator.mixed_precision,
        'versions': {'timm_sbs': timm_sbs.__version__, 'timm': timm.__version__, 'torch': torch.__version__},
        'hardware': hardware,
    }


def _distill(
        fit: Fit,
        original: torch.nn.Module,
        loaders: Any,
        settings: DistillationSettings,
        results: Dict[str, Any],
        output: Path,
        accelerator: Accelerator,
) -> Dict[str, Any]:
    """Second phase: write the best artifact whenever validation finds one, and return its results."""
    train, validation = loaders
    original = original.to(accelerator.device)
    student = GeneratedModel(fit.predictor, fit.plan, copy.deepcopy(original))
    results['original_top1'] = evaluate(original, validation, 'original').top1
    start = evaluate(student.materialize(), validation, 'reconstruction')
    results.update(reconstruction_top1=start.top1, top1=start.top1, images=start.images, distillation_steps=0)
    print(f"original {results['original_top1']:.2f} %, reconstruction alone {start.top1:.2f} %", flush=True)
    best = dict(results)
    save_artifact(output, fit.artifact(student.model, best))
    validations = []

    def validate(step: int) -> None:
        nonlocal best
        top1 = evaluate(student.materialize(), validation).top1
        validations.append(top1)
        print(f'step {step}: top-1 {top1:.2f} %', flush=True)
        if top1 > best['top1']:
            best = {**best, 'top1': top1, 'distillation_steps': step}
            save_artifact(output, fit.artifact(student.model, best))

    distill(student, original, train, settings, accelerator, validate)
    selection = {'validations': len(validations), 'last_top1': validations[-1]}
    record_results(output, selection)
    return {**best, **selection}


def run(args: argparse.Namespace) -> Dict[str, Any]:
    """Fit a predictor as the arguments say.

    Returns:
        Measured results, as they stand in config.json.

    Raises:
        SbsError: Something about the request is wrong; nothing half-written is left.
    """
    settings = _settings(args)
    output = _check_output(args.output)
    try:
        accelerator = Accelerator(mixed_precision=args.mixed_precision)
    except (ValueError, RuntimeError) as e:
        raise SbsError(f'--mixed-precision {args.mixed_precision} does not work on this device: {e}') from e
    if accelerator.num_processes > 1:
        raise SbsError('Several processes are not supported yet. Use accelerate launch --num_processes 1.')
    original = load_original(args.model, args.initial_checkpoint, args.model_kwargs)
    config, pretrained_cfg, specs = design(
        original, args.model_kwargs, args.pct, settings['rule'], settings['ordering'], settings['encoding'],
        args.linear_layers, args.activation, args.storage_dtype)
    data = settings['data']
    loaders = (train_loader(data, pretrained_cfg), eval_loader(data, pretrained_cfg)) if data.given else None

    total = sum(p.numel() for p in original.parameters())
    size = predictor_parameters(config, specs)
    print(f'{args.model}: {len(specs)} of its weights are generated ({sum(s.num_weights for s in specs):,} of '
          f'{total:,} parameters), by a predictor of {size:,} parameters ({100 * size / total:.1f} %).', flush=True)

    started = time.monotonic()
    fit = start_fit(config, pretrained_cfg, specs, find_orderings(original, specs, config.ordering), args.seed)
    fit.predictor.to(accelerator.device)
    results = {**_describe_run(args, accelerator), 'predictor_parameters': size, 'original_parameters': total}
    results.update(reconstruct(
        fit.predictor, fit.plan, original.state_dict(), settings['reconstruction'], args.seed))
    results['reconstruction_seconds'] = round(time.monotonic() - started, 1)
    save_artifact(output, fit.artifact(original, results))
    print(f"reconstruction error {results['reconstruction_error']:.4f} after {results['reconstruction_seconds']} s",
          flush=True)
    if loaders:
        results = _distill(fit, original, loaders, settings['distillation'], results, output, accelerator)
        print(f"best top-1 {results['top1']:.2f} %, after the last step {results['last_top1']:.2f} % "
              f"(original {results['original_top1']:.2f} %)")
    print(f"wrote {output}; load it with timm.create_model('local-dir:{output}', pretrained=True)")
    return results


def main(argv: Optional[List[str]] = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except SbsError as e:
        print(f'train_sbs.py: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
