"""Second-order reconstruction beside reconstruction of the weights alone, in as much time: CIFAR-10 ResNets.

    python tests/benchmarks/second_order.py --data-dir CIFAR10 --weights-56 FILE

CIFAR10 has 'train' (50,000 images, of which at most 2,000 are looked at, without their labels) and 'validation' (the
10,000 test images). Every run begins with the same short reconstruction. Runs of a number of images, or of images that
were drawn to match the BatchNorm statistics ('inversion'), then take the second-order phase; no image is trained on.
'weights' is reconstruction alone, for as long as the run with 2,000 images took. Results are written after every run,
and runs that are in the file are not repeated. Those in the file took 3,000 optimization steps of second order over
batches of filters, in about 2 hours on 2 CPU cores; the phase now takes all weights in each step, and fewer steps.
"""
import argparse
from typing import Any

from common import (
    cifar_original,
    environment,
    generated_error,
    read_results,
    timed,
    top1,
    validation_batches,
    write_results,
)

import timm_sbs

START_STEPS, STEPS = 1000, 750  # of reconstruction, from which all runs go on, and of second order
KINDS = ('2000', 'weights', 'inversion', '500', '100')
NAME = 'second_order'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True)
    parser.add_argument('--pct', type=float, nargs='+', default=[20., 10., 30.])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--networks', nargs='+', default=['resnet20', 'resnet56'])
    args = parser.parse_args()
    results: dict[str, Any] = {
        'networks': {}, **read_results(NAME), **environment(), 'start_steps': START_STEPS, 'steps': STEPS,
        'command': 'python tests/benchmarks/second_order.py --data-dir CIFAR10 --weights-56 FILE'}
    for network in args.networks:
        original = cifar_original(network, args.weights_56)
        batches = validation_batches(args.data_dir, original)
        entry = results['networks'].setdefault(network, {'original': top1(original, batches), 'runs': []})
        for pct, seed, kind in ((p, s, k) for p in args.pct for s in args.seeds for k in KINDS):
            done = {(run['kind'], run['pct'], run['seed']): run for run in entry['runs']}
            if (kind, pct, seed) in done:
                continue
            fields = dict(pct=pct, seed=seed, reconstruction_steps=START_STEPS)
            if kind == 'weights':
                _, start = timed(lambda fields=fields: timm_sbs.fit(original, **fields))
                fields['reconstruction_steps'] = int(START_STEPS * done['2000', pct, seed]['seconds'] / start)
            else:
                fields.update(second_order_steps=STEPS, distillation_steps=0, **(
                    dict(data_free=True) if kind == 'inversion'
                    else dict(images=f'{args.data_dir}/train', statistics_images=int(kind))))
            artifact, seconds = timed(lambda fields=fields: timm_sbs.fit(original, **fields))
            entry['runs'].append({
                'kind': kind, 'pct': pct, 'seed': seed, 'top1': top1(artifact.create_model(), batches),
                'error': round(generated_error(artifact, original), 4), 'seconds': round(seconds, 1)})
            print(network, entry['runs'][-1], flush=True)
            results['seeds'] = sorted({run['seed'] for n in results['networks'].values() for run in n['runs']})
            write_results(NAME, results)


if __name__ == '__main__':
    main()
