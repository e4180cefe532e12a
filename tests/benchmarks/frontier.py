"""Accuracy over bytes of whole files: predictors and rounded weights, trained with the same losses.

    pip install '.[train,benchmarks]'
    python tests/benchmarks/frontier.py --data-dir CIFAR10 --weights-56 FILE --runs RUNS

CIFAR10 is a folder with train/CLASS and validation/CLASS; FILE the published ResNet-56 weights; RUNS a folder for what
is trained, one run for each point: those that are in it already are taken as they are, so that runs may be made on
several machines. --only chooses points by a part of their names; others stay in the results as they are. --steps sets
other numbers of steps on images than those of a point; each point says how many it had, and on which hardware.

A part of the training images chooses each artifact, as `timm-sbs train` does. Then it is loaded by timm and measured on
the 10,000 test images, once. Beside top-1, results tell the bits of each integer in the file, and of whole files.

Prints a table, and writes results/frontier.json and .png.
"""
import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from common import HERE, RESNET20, draw, write_results
from table_makers.sources import results_of

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import CONFIG_NAME, artifact_bytes, read_config, written_ledger
from timm_sbs.common.entries import ENTRIES
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader
from timm_sbs.train import main as train
from timm_sbs.training.run.environment import environment

NAME = 'frontier'
ROUNDED = ['--recipe', 'cifar10_rounding']
GENERATED = ['--method', 'generation', '--order-over', 'axes', '--bits', '3', '--kept-bits', '6',
             '--second-order-steps', '0', '--temperature', '4', '--lr', '3e-4']
UNTRAINED = [*ROUNDED, '--distillation-steps', '0']
FLAGS = ('distillation_steps', 'batch_size', 'lr', 'rounding_lr', 'second_order_steps', 'temperature')
# What others report. Bytes are those of the weights: one or two bits each, and 16 for all that is not rounded.
ANCHORS = (
    {'network': 'resnet20', 'label': '1-bit weights', 'bytes': 38_000, 'top1': 91.0,
     'source': 'about what IR-Net (arXiv 1909.10788) and SLB (arXiv 2009.08695) report, for other originals'},
    {'network': 'resnet56', 'label': 'ternary weights', 'bytes': 150_000, 'top1': 93.56,
     'source': 'TTQ (arXiv 1612.01064), for another original'})
METHODS = {'rounding': ROUNDED, 'generation': GENERATED, 'rounding, untrained': UNTRAINED}
SIZES = {'resnet20': (30, 40, 50, 60, 80), 'resnet56': (80, 110, 120, 150)}
STEPS = {'resnet20': ['--distillation-steps', '8500', '-b', '256'], 'resnet56': ['--distillation-steps', '3500']}
LOW_STEPS = {'resnet20': ['--distillation-steps', '5000'], 'resnet56': ['--distillation-steps', '2400']}
LOW_RATES = {('resnet20', 30): '3e-3', ('resnet56', 80): '4e-3', ('resnet56', 110): '3e-3'}  # others have 2e-3
FLOATS = {  # per cent of the parameters
    ('resnet20', 20): ['--distillation-steps', '4500', '--temperature', '4', '--lr', '5e-4'],
    ('resnet20', 10): ['--distillation-steps', '11500', '--lr', '1.5e-4'],
    ('resnet56', 20): ['--distillation-steps', '3000', '--lr', '1.5e-4'],  # and 90 more at 2e-5, from older code
    ('resnet56', 10): ['--distillation-steps', '4500', '--lr', '1.5e-4']}


def points() -> Iterator[tuple[str, str, str, list[str]]]:
    """Name, network, method and flags of each."""
    for network, sizes in SIZES.items():
        for size in sizes:
            yield (f'{network}_rounding_low_rate_{size}k', network, 'rounding, low rate',
                   [*ROUNDED, '--rounding-lr', LOW_RATES.get((network, size), '2e-3'), '--bytes', f'{size}k',
                    *LOW_STEPS[network]])
        for method, flags in METHODS.items():
            for size in sizes:
                name = f"{network}_{method.replace(', ', '_')}_{size}k"
                trained = [] if 'untrained' in method else STEPS[network]
                yield name, network, method, [*flags, '--bytes', f'{size}k', *trained]
        for pct in (10, 20):
            yield f'{network}_floats_{pct}pct', network, 'floats', ['--pct', str(pct), *FLOATS[network, pct]]
    for name, entry in ENTRIES.items():
        if '_cifar10_' in name and name.endswith('pct') and not name.endswith('_20pct'):  # these are points already
            yield name, entry.base.removesuffix('_cifar10'), 'shipped', []


def folder_of(runs: Path, name: str) -> Path:
    """Where the artifact of a point is."""
    return shipped_folder(name) if name in ENTRIES else runs / name


def flags_of(folder: Path) -> dict[str, Any]:
    """What a run was told, as far as points differ in it."""
    path = folder / 'args.yaml'
    told = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return {name: told[name] for name in FLAGS if told.get(name) is not None}


def bits_of(folder: Path) -> dict[str, Any]:
    """Bits in the file for each number of the predictor, and for each rounded weight."""
    config, _ = read_config(folder)
    sizes = written_ledger(config)
    with_rounded = sizes.original_values if sizes.rounded and not config.generated else None
    return {
        'parameters': sizes.predictor_parameters,
        'bits_per_parameter': round(8 * sizes.predictor / sizes.predictor_parameters, 3) if config.generated else None,
        'bits_per_rounded_weight': round(8 * sizes.rounded / with_rounded, 3) if with_rounded else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True, type=Path)
    parser.add_argument('--runs', required=True, type=Path)
    parser.add_argument('--only', nargs='*', default=[''])
    parser.add_argument('--steps', type=int)
    parser.add_argument('--no-training', action='store_true', help='leave out points that RUNS does not have')
    args = parser.parse_args()
    found: list[Mapping[str, Any]] = []
    weights = {'resnet20': RESNET20, 'resnet56': args.weights_56}
    images: dict[str, Any] = {}
    for name, network, method, flags in points():
        folder = folder_of(args.runs, name)
        if not any(part in name for part in args.only):
            continue
        if not (folder / CONFIG_NAME).is_file():
            if args.no_training:
                continue
            steps = ['--distillation-steps', str(args.steps)] if args.steps and 'untrained' not in method else []
            if train(['--model', f'{network}_cifar10', '--initial-checkpoint', str(weights[network]), '--license',
                      'bsd-2-clause', '--data-dir', args.data_dir, '--val-split', '', '--feature-weight', '1', *flags,
                      *steps, '--output', str(folder)]):
                raise SystemExit(f'training of {name} failed')
        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        if network not in images:
            loader = eval_loader(DataSettings(args.data_dir, batch_size=250), model.pretrained_cfg)
            images[network] = [(x, y) for x, y in loader]
        results = read_config(folder)[0].results
        found.append({
            'name': name, 'network': network, 'method': method, 'bytes': artifact_bytes(folder),
            'top1': evaluate(model, images[network], name).top1, 'holdout_divergence': results.holdout_divergence,
            'holdout_agreement': results.holdout_agreement,
            'steps': sum(run.quantization_steps or run.distillation_steps or 0
                         for run in (results.started_from, results) if run),
            'seconds': results.quantization_seconds or results.distillation_seconds,
            'hardware': results.hardware, 'seed': results.seed, 'flags': flags_of(folder), **bits_of(folder)})
        print(json.dumps(found[-1]), flush=True)
    earlier = json.loads((HERE / 'results' / f'{NAME}.json').read_text())
    measured = {point['name'] for point in found}
    known = {name for name, *_ in points()}
    write_results(NAME, {
        'command': f'python tests/benchmarks/{NAME}.py --data-dir CIFAR10 --weights-56 FILE --runs RUNS',
        'images': 10_000, 'seed': 0, **environment(torch.device('cpu'), 1), 'anchors': ANCHORS,
        'originals': {network: {key: entry['original'][key] for key in ('bytes', 'top1')}
                      for network, entry in results_of('accuracy_over_bytes')['networks'].items()},
        'points': sorted((*(point for point in earlier['points'] if point['name'] in known - measured), *found),
                         key=lambda point: str(point['name']))})
    draw(NAME)


if __name__ == '__main__':
    main()
