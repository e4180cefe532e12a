"""Predictors of ResNet-18 that store less of an ordering, and NeRN's configuration, by the imagenet recipe.

    python tests/benchmarks/imagenet_variants.py --images ROOT --weights FILE --output FOLDER [--only NAME ...]

ROOT has the ImageFolders 'train', 'validation' and 'validation10', imagenet_classes.txt, and folders of images in
'unlabelled'. Every variant gets as many steps of each phase on the same images, fewer of distillation than the recipe
takes (--distillation-steps), and one that differs from what ships by these steps alone is beside them. FOLDER keeps
artifacts and checkpoints: what was stopped goes on, what has ended is measured again.

Writes results/imagenet_variants.json after every variant, and a picture of top-1 over time beside docs/imagenet.md. With
--table only the tables and the pictures are made again. A variant takes half an hour on one CPU thread with bfloat16
units, with a thousand steps of distillation an hour.
"""
import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping

import timm
from common import HERE, artifact_bytes, write_results
from imagenet_photographs import Photographs, recipe_flags

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
    argv = [
        *recipe_flags(args.images), '--model', 'resnet18.tv_in1k', '--initial-checkpoint', str(args.weights),
        '--distillation-steps', str(args.distillation_steps), '--eval-interval', str(max(args.distillation_steps, 1)),
        '--checkpointing-steps', '50', '--checkpoints-total-limit', '1',
        '--output', str(output), '--resume', 'latest', *VARIANTS[name],
        *([] if args.distillation_steps else ['--quantization-steps', '0'])]
    train_sbs.run(train_sbs.parse_args(train_sbs.build_parser(), argv))


def phases(folder: Path) -> List[Dict[str, Any]]:
    """Top-1 of the validation images after each phase, and seconds since the beginning of the run."""
    with open(folder / 'summary.csv', encoding='utf-8', newline='') as file:
        return [
            {'phase': row['phase'], 'step': int(row['step']), 'top1': float(row['top1']),
             'seconds': float(row['seconds'])} for row in csv.DictReader(file) if row['top1']]


def label(row: Mapping[str, Any]) -> str:
    return f"{row['name']}, {row['bytes'] / 1e6:.2f} MB, {row['distillation_steps']:,} steps"


def table(results: Mapping[str, Any]) -> List[str]:
    """Markdown rows of docs/imagenet.md: top-1 after each phase, and what the last artifact does."""
    lines = [
        '| ordering | bytes | of these ordering | parameters | reconstruction | second order | rounded | distilled | '
        'top-5 | agreement | ten classes |', '|' + '---|' * 11]
    for row in results['variants']:
        found = {phase['phase']: f"{phase['top1']:.2f} %" for phase in reversed(row['phases'])}  # the first of each
        rounded = found.get('quantization') or found['end']
        distilled = f"{row['validation']['top1']:.2f} % ({row['distillation_steps']:,} steps)"
        phases = [found['reconstruction'], found['second-order'], rounded, distilled if row['distillation_steps'] else '']
        first, second = row['validation'], row['validation10']
        lines.append('| ' + ' | '.join([
            row['name'], f"{row['bytes']:,}", f"{row['ordering_bytes']:,}", f"{row['predictor_parameters']:,}", *phases,
            f"{first['top5']:.2f} %",
            f"{first['agreement']:.2f} %", f"{second['top1']:.2f} %"]) + ' |')
    return lines


def draw(results: Mapping[str, Any], output: Path) -> None:
    """Top-1 after each phase over minutes, a line for each variant."""
    from timm_sbs.plots.style import THEMES, Figure, save, themed

    for theme, suffix in zip(THEMES, ('', '_dark')):
        with themed(theme):
            figure = Figure(figsize=(7, 3.4))
            axis = figure.add_subplot()
            top1 = results['original']['validation']['top1']
            axis.axhline(top1, color='grey', linewidth=0.8, linestyle=':')
            axis.annotate(f'original {top1:.2f} %', (0.3, top1 + 1.5), fontsize=8)
            for row in results['variants']:
                points = [(phase['seconds'] / 60, phase['top1']) for phase in row['phases']]
                axis.plot(*zip(*points), 'o-', markersize=4, label=label(row))
            axis.set(xlabel='minutes of one CPU thread', ylabel='top-1 of 1,300 photographs, %', ylim=(0, 82), xlim=(0, None))
            axis.grid(alpha=0.5)
            axis.legend(frameon=False, fontsize=8)
            save(figure, output.with_name(f'{output.stem}{suffix}{output.suffix}'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path)
    parser.add_argument('--weights', type=Path)
    parser.add_argument('--output', type=Path)
    parser.add_argument('--table', action='store_true', help='only print the table and draw the pictures')
    parser.add_argument('--distillation-steps', type=int, default=250)
    parser.add_argument('--only', nargs='+', choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    path = HERE / 'results' / f'{NAME}.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    picture = HERE.parent.parent / 'docs' / 'imagenet_phases.png'
    if args.table:
        print('\n'.join(table(results)))
        draw(results, picture)
        return
    photographs = Photographs(args.images, load_original('resnet18.tv_in1k', str(args.weights)))
    results.update(
        command=f'python tests/benchmarks/{NAME}.py --images ROOT --weights FILE --output FOLDER', seed=0,
        original=photographs.original, **environment())
    for name in args.only:
        output = args.output / f"{name.replace(',', '').replace(' ', '_')}_{args.distillation_steps}"
        if not (output / 'done').exists():
            fit(name, output, args)
            (output / 'done').touch()
        model = timm.create_model(f'local-dir:{output}', pretrained=True)
        measured = read_config(output)[0].results
        row = {
            'name': name, 'distillation_steps': args.distillation_steps, 'flags': VARIANTS[name],
            'bytes': artifact_bytes(output), 'ordering_bytes': read_config(output)[0].sizes['ordering'],
            **photographs.measure(model),
            **{key: measured[key] for key in (
                'predictor_parameters', 'reconstruction_error', 'second_order_error', 'expected_divergence')
               if key in measured},
            'phases': phases(output)}
        print(row, flush=True)
        others = [old for old in results.get('variants', [])
                  if (old['name'], old['distillation_steps']) != (name, args.distillation_steps)]
        results['variants'] = [*others, row]
        write_results(NAME, results)
        draw(results, picture)


if __name__ == '__main__':
    main()
