"""ResNet-20 at 20 % without any image: reconstruction alone, then distillation on synthetic images.

    python tests/benchmarks/data_free.py --data-dir CIFAR10

The 10,000 CIFAR-10 test images in CIFAR10/validation only measure. Takes about 6 minutes on 2 CPU cores.
"""
import argparse

from common import cifar_original, environment, top1, validation_batches, write_results

import timm_sbs

STEPS, SEED = 400, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    args = parser.parse_args()
    original = cifar_original('resnet20')
    batches = validation_batches(args.data_dir, original)
    phases = dict(second_order_steps=0, distillation_steps=STEPS, eval_interval=STEPS)
    kinds = {'none': {}, 'inversion': dict(data_free=True, **phases)}
    found = {}
    for kind, fields in kinds.items():
        artifact = timm_sbs.fit(original, pct=20, seed=SEED, **fields)
        found[kind] = top1(artifact.create_model(), batches)
        print(f'{kind}: {found[kind]:.2f} %', flush=True)
    write_results('data_free', {
        'command': 'python tests/benchmarks/data_free.py --data-dir CIFAR10', 'seeds': [SEED], 'pct': 20,
        'distillation_steps': STEPS, 'top1': found, **environment()})


if __name__ == '__main__':
    main()
