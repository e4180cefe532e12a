"""ResNet-18 on ImageNet photographs: what ships, rounding of the original by output channel, and NNCodec.

    python tests/benchmarks/imagenet_resnet18.py --images ROOT --weights FILE --nncodec PYTHON

ROOT has the folders 'validation' (1,300 photographs of ImageNet's validation set), 'validation10' (490 of ten of its
classes), 'train' and 'unlabelled/imagen' (1,000 photographs each), and imagenet_classes.txt, the classes in order. Both
sets are easy samples: figures stand beside the original's on the same images, and say nothing of the full validation
set. FILE are the original's weights. Results are written after every figure; --parts chooses, and other parts stay.
Takes half an hour on one CPU thread.
"""
import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
from common import HERE, artifact_sizes, environment, read_results, validation_batches, value_bytes, write_results
from gptq import rounded_by_channel
from imagenet_photographs import Figures, Photographs, resnet18
from safetensors.torch import load_file
from torch import nn

import timm_sbs

NAME = 'imagenet_resnet18'
SHIPPED = ('sbs_resnet18_15pct', 'sbs_resnet18_2mb')
QPS = (-32, -28, -24, -20)
Measure = Callable[[nn.Module], Figures]


def shipped(args: argparse.Namespace, measure: Measure) -> Iterator[dict[str, Any]]:
    for name in SHIPPED:
        artifact = timm_sbs.load(name)
        with tempfile.TemporaryDirectory() as folder:
            artifact.save(folder)
            size = artifact_sizes(Path(folder))['bytes']
        yield {'name': name, 'bytes': size, **measure(artifact.create_model())}


def rounded(args: argparse.Namespace, measure: Measure) -> Iterator[dict[str, Any]]:
    original = resnet18(args.weights)
    images = [*validation_batches(args.images, original, 'train'),
              *validation_batches(args.images / 'unlabelled', original, 'imagen')]
    for name, size, model in rounded_by_channel(original, images):
        yield {'name': name, 'bytes': size, **measure(model)}


def nncodec(args: argparse.Namespace, measure: Measure) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for qp in QPS:
            subprocess.run([args.nncodec, HERE / 'nncodec_worker.py', args.weights, folder, str(qp)], check=True)
            model = timm.create_model('resnet18')
            model.load_state_dict(load_file(Path(folder) / f'{qp}.safetensors'), strict=False)
            yield {'qp': qp, 'bytes': (Path(folder) / f'{qp}.nnc').stat().st_size, **measure(model)}


PARTS: dict[str, Callable[[argparse.Namespace, Measure], Iterator[dict[str, Any]]]] = {
    'artifacts': shipped, 'rounded': rounded, 'nncodec': nncodec}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--nncodec', metavar='PYTHON')
    parser.add_argument('--parts', nargs='+', default=[*PARTS], choices=[*PARTS])
    args = parser.parse_args()
    original = resnet18(args.weights)
    photographs = Photographs(args.images, original)
    results = {
        **read_results(NAME), **environment(), 'seed': 0,
        'command': f'python tests/benchmarks/{NAME}.py --images ROOT --weights FILE --nncodec PYTHON',
        'original': {'bytes': value_bytes(original.state_dict()), **photographs.original}}
    for part in args.parts:
        results[part] = []
        for row in PARTS[part](args, photographs.measure):
            results[part].append(row)
            print(part, row, flush=True)
            write_results(NAME, results)


if __name__ == '__main__':
    main()
