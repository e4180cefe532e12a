"""Predictors of ResNet-18 that store less of an ordering, and NeRN's configuration, by the imagenet recipe.

    python tests/benchmarks/imagenet_variants.py --images ROOT --weights FILE --output FOLDER [--only NAME ...]

ROOT has the ImageFolders 'train', 'validation' and 'validation10', imagenet_classes.txt, and folders of images in
'unlabelled'. Every variant gets as many steps of each phase on the same images, fewer of distillation than the recipe
takes (--distillation-steps), and one that differs from what ships by these steps alone is beside them. FOLDER keeps
artifacts and checkpoints: what was stopped goes on, what has ended is measured again.

Writes results/imagenet_variants.json after every variant. A variant takes half an hour on one CPU thread with bfloat16
units.
"""
import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any, Dict, List

import timm
from common import HERE, write_results
from imagenet_resnet18 import Photographs, artifact_bytes

from timm_sbs.artifact import read_config
from timm_sbs.training.environment import environment
from timm_sbs.training.original import load_original

sys.path.insert(0, str(HERE.parent.parent))
import train_sbs  # noqa: E402

NAME = 'imagenet_variants'
VARIANTS: Dict[str, List[str]] = {
    'path over each layer': [],
    'path over each filter': ['--granularity', 'filter'],
    'both axes': ['--granularity', 'axis'],
    'both axes, 3 MB': ['--granularity', 'axis', '--bytes', '3000k'],
    'NeRN': ['--coordinates', 'grid', '--encoding', 'positional', '--activation', 'relu'],
}


def fit(name: str, output: Path, args: argparse.Namespace) -> None:
    images = args.images
    argv = [
        '--recipe', 'imagenet', '--model', 'resnet18.tv_in1k', '--initial-checkpoint', str(args.weights),
        '--data-dir', str(images), '--class-map', str(images / 'imagenet_classes.txt'),
        '--unlabelled-dir', *(str(folder) for folder in sorted((images / 'unlabelled').iterdir())),
        '--distillation-steps', str(args.distillation_steps), '--eval-interval', str(args.distillation_steps),
        '--checkpointing-steps', '50', '--checkpoints-total-limit', '1', '--workers', '0',
        '--output', str(output), '--resume', 'latest', *VARIANTS[name]]
    train_sbs.run(train_sbs.parse_args(train_sbs.build_parser(), argv))


def phases(folder: Path) -> List[Dict[str, Any]]:
    """Top-1 of the validation images after each phase, and seconds since the beginning of the run."""
    with open(folder / 'summary.csv', encoding='utf-8', newline='') as file:
        return [
            {'phase': row['phase'], 'step': int(row['step']), 'top1': float(row['top1']),
             'seconds': float(row['seconds'])} for row in csv.DictReader(file) if row['top1']]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--distillation-steps', type=int, default=250)
    parser.add_argument('--only', nargs='+', choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    path = HERE / 'results' / f'{NAME}.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    photographs = Photographs(args.images, load_original('resnet18.tv_in1k', str(args.weights)))
    results.update(
        command=f'python tests/benchmarks/{NAME}.py --images ROOT --weights FILE --output FOLDER', seed=0,
        distillation_steps=args.distillation_steps, original=photographs.original, **environment())
    for name in args.only:
        output = args.output / name.replace(',', '').replace(' ', '_')
        if not (output / 'done').exists():
            fit(name, output, args)
            (output / 'done').touch()
        model = timm.create_model(f'local-dir:{output}', pretrained=True)
        measured = read_config(output)[0].results
        row = {
            'name': name, 'flags': VARIANTS[name], 'bytes': artifact_bytes(output), **photographs.measure(model),
            **{key: measured[key] for key in (
                'predictor_parameters', 'reconstruction_error', 'second_order_error', 'expected_divergence')
               if key in measured},
            'phases': phases(output)}
        print(row, flush=True)
        results['variants'] = [old for old in results.get('variants', []) if old['name'] != name] + [row]
        write_results(NAME, results)


if __name__ == '__main__':
    main()
