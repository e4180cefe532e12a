"""Accuracy over bytes of whole files on CIFAR-10: predictors and rounded weights, trained with the same losses.

    pip install '.[train,benchmarks]'
    python tests/benchmarks/frontier.py --data-dir CIFAR10 --weights-56 FILE --runs RUNS

CIFAR10 is a folder with train/CLASS and validation/CLASS; FILE the published ResNet-56 weights; RUNS a folder for what
is trained, one run for each point. Runs that are in it already are taken as they are, so runs may be made on several
machines. --only chooses points by a part of their names; others stay in the results as they are.

A part of the training images chooses each artifact, as `timm-sbs train` does. Then it is loaded by timm and measured on
the 10,000 test images, once. Writes results/frontier.json; pictures.py draws it.
"""
import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from common import (
    FILES,
    artifact_sizes,
    cifar_original,
    environment,
    read_results,
    replaced,
    top1,
    validation_batches,
    write_results,
)

import timm_sbs

NAME = 'frontier'
# What others report. Bytes are those of the weights: one or two bits each, and 16 for all that is not rounded.
ANCHORS = (
    {'network': 'resnet20', 'label': '1-bit weights', 'bytes': 38_000, 'top1': 91.0,
     'source': 'about what IR-Net (arXiv 1909.10788) and SLB (arXiv 2009.08695) report, for other originals'},
    {'network': 'resnet56', 'label': 'ternary weights', 'bytes': 150_000, 'top1': 93.56,
     'source': 'TTQ (arXiv 1612.01064), for another original'})
SIZES = {'resnet20': (30, 40, 50, 60, 80), 'resnet56': (80, 110, 120, 150)}  # kB of rounded weights
ROUNDING = {'resnet20': dict(distillation_steps=8500, batch_size=256), 'resnet56': dict(distillation_steps=3500)}
QUANTIZED_PCT = {'resnet20': (22, 31, 41, 51, 70), 'resnet56': (29, 42)}  # of predictors of 3 bits
QUANTIZED = dict(order_over='axes', bits=3, kept_bits=6, second_order_steps=0, temperature=4, lr=3e-4)
QUANTIZED_STEPS = {'resnet20': 4000, 'resnet56': 3300}
FLOATS = {  # by network and per cent of the parameters
    ('resnet20', 20): dict(distillation_steps=4500, temperature=4, lr=5e-4),
    ('resnet20', 10): dict(distillation_steps=11500, lr=1.5e-4),
    ('resnet56', 20): dict(distillation_steps=3000, lr=1.5e-4),
    ('resnet56', 10): dict(distillation_steps=4500, lr=1.5e-4)}


def points() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, network, method and fields of each."""
    for network, sizes in SIZES.items():
        for size in sizes:
            rounded = dict(config='cifar10_rounding', bytes=f'{size}k')
            yield f'{network}_{size}k', network, 'rounding', {**rounded, **ROUNDING[network]}
            yield f'{network}_{size}k_untrained', network, 'rounding, untrained', {**rounded, 'distillation_steps': 0}
        for pct in QUANTIZED_PCT[network]:
            yield f'{network}_{pct}pct_3bits', network, 'predictor, 3 bits', {
                **QUANTIZED, 'pct': pct, 'distillation_steps': QUANTIZED_STEPS[network]}
    for (network, pct), fields in FLOATS.items():
        yield f'{network}_{pct}pct', network, 'predictor', {'pct': pct, **fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True)
    parser.add_argument('--runs', required=True, type=Path)
    parser.add_argument('--only', nargs='*', default=[''])
    args = parser.parse_args()
    results = read_results(NAME)
    originals = {network: cifar_original(network, args.weights_56) for network in SIZES}
    batches = validation_batches(args.data_dir, originals['resnet20'])
    for name, network, method, fields in points():
        if not any(part in name for part in args.only):
            continue
        folder = args.runs / name
        if not (folder / FILES[0]).is_file():
            timm_sbs.fit(originals[network], output=folder, license='bsd-2-clause', feature_weight=1,
                         images=f'{args.data_dir}/train', **fields)
        measured = json.loads((folder / FILES[0]).read_text())['sbs']['results']
        point = {
            'name': name, 'network': network, 'method': method, **artifact_sizes(folder),
            'top1': top1(timm.create_model(f'local-dir:{folder}', pretrained=True), batches),
            **{key: measured.get(key) for key in ('holdout_divergence', 'holdout_agreement', 'hardware', 'seed')},
            'steps': measured.get('quantization_steps') or measured.get('distillation_steps') or 0,
            'fields': fields}
        print(json.dumps(point), flush=True)
        results['points'] = replaced(results['points'], point, 'name')
        write_results(NAME, {
            **results, **environment(), 'images': 10_000, 'seed': 0, 'anchors': ANCHORS,
            'command': f'python tests/benchmarks/{NAME}.py --data-dir CIFAR10 --weights-56 FILE --runs RUNS',
            'points': sorted(results['points'], key=lambda point: point['name'])})


if __name__ == '__main__':
    main()
