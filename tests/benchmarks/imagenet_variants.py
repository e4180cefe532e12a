"""Predictors of ResNet-18 that store less of an ordering, and NeRN's configuration, by the imagenet recipe.

    python tests/benchmarks/imagenet_variants.py --images ROOT --weights FILE --output FOLDER [--only NAME ...]

ROOT has the ImageFolders 'train', 'validation' and 'validation10', imagenet_classes.txt, and folders of images in
'unlabelled'. Every variant gets as many steps of each phase on the same images, fewer of distillation than the recipe
takes (--distillation-steps), and one that differs from what ships by these steps alone is beside them. FOLDER keeps
artifacts and checkpoints: what was stopped goes on, what has ended is measured again.

Writes results/imagenet_variants.json after every variant, and a picture of top-1 over time beside docs/imagenet.md.
With --draw only the pictures are made again. A variant takes half an hour on one CPU thread with bfloat16 units, with a
thousand steps of distillation an hour.
"""
import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from common import HERE, current_flags, top1_at_each_look, write_results
from imagenet_photographs import Photographs, recipe_flags

from timm_sbs.artifact.folder import artifact_bytes, read_config
from timm_sbs.artifact.original import load_original
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import parse_args
from timm_sbs.training.run.environment import environment
from timm_sbs.training.run.train import train

NAME = 'imagenet_variants'
DONE = 'top1.json'  # in the folder of a run that has ended
VARIANTS: dict[str, list[str]] = {
    'path over each layer': [],
    'path over each filter': ['--order-over', 'filter'],
    'both axes': ['--order-over', 'axes'],
    'both axes, 3 MB': ['--order-over', 'axes', '--bytes', '3000k'],
    'NeRN': ['--coordinates', 'grid', '--encoding', 'positional', '--activation', 'relu'],
}


def fit(name: str, output: Path, args: argparse.Namespace, photographs: Photographs) -> None:
    argv = [
        *recipe_flags(args.images), '--model', 'resnet18.tv_in1k', '--initial-checkpoint', str(args.weights),
        '--distillation-steps', str(args.distillation_steps), '--eval-interval', str(max(args.distillation_steps, 1)),
        '--checkpointing-steps', '50', '--checkpoints-total-limit', '1',
        '--output', str(output), '--resume', 'latest', *VARIANTS[name],
        *([] if args.distillation_steps else ['--quantization-steps', '0'])]
    with top1_at_each_look(photographs.batches('validation')) as found:
        train(parse_args(build_parser(), argv))
    (output / DONE).write_text(json.dumps(found))


def phases(folder: Path) -> list[dict[str, Any]]:
    """Top-1 of the validation images after each phase, and seconds since the beginning of the run; where it was
    stopped, of what came after."""
    found = json.loads((folder / DONE).read_text())
    with open(folder / 'summary.csv', encoding='utf-8', newline='') as file:
        looks = [row for row in csv.DictReader(file) if row['holdout_divergence']]
    return [
        {'phase': row['phase'], 'step': int(row['step']), 'top1': top1, 'seconds': float(row['seconds'])}
        for row, top1 in zip(looks[len(looks) - len(found):], found)]


def label(row: Mapping[str, Any]) -> str:
    return f"{row['name']}, {row['bytes'] / 1e6:.2f} MB, {row['distillation_steps']:,} steps"


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
            axis.set(xlabel='minutes of one CPU thread', ylabel='top-1 of 1,300 photographs, %')
            axis.set(xlim=(0, None), ylim=(0, 82))
            axis.grid(alpha=0.5)
            axis.legend(frameon=False, fontsize=8)
            save(figure, output.with_name(f'{output.stem}{suffix}{output.suffix}'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path)
    parser.add_argument('--weights', type=Path)
    parser.add_argument('--output', type=Path)
    parser.add_argument('--draw', action='store_true', help='only draw the pictures')
    parser.add_argument('--distillation-steps', type=int, default=250)
    parser.add_argument('--only', nargs='+', choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    path = HERE / 'results' / f'{NAME}.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    picture = HERE.parent.parent / 'docs' / 'imagenet_phases.png'
    if args.draw:
        draw(results, picture)
        return
    photographs = Photographs(args.images, load_original('resnet18.tv_in1k', str(args.weights)))
    results.update(
        command=f'python tests/benchmarks/{NAME}.py --images ROOT --weights FILE --output FOLDER', seed=0,
        original=photographs.original, **environment())
    for name in args.only:
        output = args.output / f"{name.replace(',', '').replace(' ', '_')}_{args.distillation_steps}"
        if not (output / DONE).exists():
            fit(name, output, args, photographs)
        model = timm.create_model(f'local-dir:{output}', pretrained=True)
        config, _ = read_config(output)
        measured = config.results
        row = {
            'name': name, 'distillation_steps': args.distillation_steps, 'flags': VARIANTS[name],
            'bytes': artifact_bytes(output), 'ordering_bytes': config.ledger['ordering'],
            **photographs.measure(model),
            **{key: measured[key] for key in (
                'predictor_parameters', 'reconstruction_error', 'second_order_error', 'expected_divergence')
               if key in measured},
            'phases': phases(output)}
        print(row, flush=True)
        others = [{**old, 'flags': current_flags(old['flags'])} for old in results.get('variants', [])
                  if (old['name'], old['distillation_steps']) != (name, args.distillation_steps)]
        results['variants'] = [*others, row]
        write_results(NAME, results)
        draw(results, picture)


if __name__ == '__main__':
    main()
