"""Predictors of ResNet-18 that store less of an ordering, and NeRN's configuration, by the imagenet recipe.

    python tests/benchmarks/imagenet_variants.py --images ROOT --weights FILE

ROOT is that of imagenet.py, with all folders of images in 'unlabelled'. Every variant gets the same images and
as many optimization steps of each phase; --distillation-steps takes fewer than the recipe. Each phase is measured by a
run that ends with it. Results are written after every variant. One takes half an hour on one CPU thread with bfloat16
units, with a thousand steps of distillation an hour.
"""
import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import NERN, artifact_sizes, environment, read_results, replaced, timed, write_results
from imagenet_photographs import Photographs, resnet18

import timm_sbs

NAME = 'imagenet_variants'
VARIANTS: dict[str, dict[str, Any]] = {
    'path over each layer': {},
    'path over each filter': dict(order_over='filter'),
    'both axes': dict(order_over='axes'),
    'NeRN': {key: value for key, value in NERN.items() if key != 'order_over'},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--distillation-steps', type=int, default=1000)
    parser.add_argument('--only', nargs='+', choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    original = resnet18(args.weights)
    photographs = Photographs(args.images, original)
    results = {
        **read_results(NAME), **environment(), 'seed': 0, 'original': photographs.original,
        'command': f'python tests/benchmarks/{NAME}.py --images ROOT --weights FILE'}
    images = dict(images=[args.images / 'train', *sorted((args.images / 'unlabelled').iterdir())])
    for name in args.only:
        fields = {**VARIANTS[name], 'config': 'imagenet'}
        reconstructed = timm_sbs.fit(original, **fields)
        second_order = timm_sbs.fit(original, **fields, **images, distillation_steps=0)
        artifact, seconds = timed(lambda fields=fields: timm_sbs.fit(
            original, **fields, **images, distillation_steps=args.distillation_steps))
        with tempfile.TemporaryDirectory() as folder:
            artifact.save(folder)
            row = {
                'name': name, 'fields': VARIANTS[name], 'distillation_steps': args.distillation_steps,
                'seconds': round(seconds), **artifact_sizes(Path(folder)),
                'reconstruction': photographs.top1(reconstructed.create_model()),
                'second_order': photographs.top1(second_order.create_model()),
                **photographs.measure(artifact.create_model())}
        print(row, flush=True)
        results['variants'] = replaced(results.get('variants', []), row, 'name', 'distillation_steps')
        write_results(NAME, results)


if __name__ == '__main__':
    main()
