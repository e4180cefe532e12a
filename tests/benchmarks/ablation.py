"""What each part of the method contributes: one configuration of ``timm_sbs.fit`` for every question, three seeds each.

    python tests/benchmarks/ablation.py --network resnet20 --weights FILE --data-dir CIFAR10

--network vit or convnext are those of originals.py, in which only the main configurations are compared.

'parameters': predictors of 20 % of the network's parameters, by reconstruction alone. 'distilled': the main ones with
300 steps of distillation more (the quick recipe). Everything is measured as a user loads it from the written files.
'bandwidth trials': of every exponent the best of three bandwidths is taken, around that with which a layer of 1,536
kernels gets the same one as by default. Rows that the results file has already are not measured again, so a run that
was stopped goes on. Takes three hours for each network on one CPU thread.
"""
import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from common import (
    NERN,
    artifact_sizes,
    cifar_original,
    environment,
    generated_error,
    read_results,
    top1,
    validation_batches,
    write_results,
)
from originals import load_original

import timm_sbs

CIFAR_RESNETS = 'resnet20', 'resnet56'
Fields = dict[str, Any]  # keywords of timm_sbs.fit
MAIN: dict[str, Fields] = {
    'UOS and UOS-RFF': {},
    'UOS alone': dict(encoding='positional'),
    'UOS-RFF alone': dict(order_over='nothing'),
    'neither': dict(order_over='nothing', encoding='positional'),
    'NeRN, cross-filter': NERN,
    'paths over the two axes': dict(order_over='axes'),
}
OTHERS: dict[str, Fields] = {
    'NeRN, no order': {**NERN, 'order_over': 'nothing'},
    'NeRN, in-filter': {**NERN, 'order_over': 'filter'},
    'paths over each filter': dict(order_over='filter'),
    'sine': dict(activation='sine'),
    'ReLU': dict(activation='relu'),
    **{f'{n} linear layers': dict(linear_layers=n) for n in (3, 4, 6, 8)},
}
EXPONENTS = (0., 0.25, 0.75, 1.)  # 0.5 is the default
FACTORS = (0.5, 1., 2.)
USUAL_KERNELS = 1536
STEPS = {'resnet20': 1500, 'resnet56': 900, 'vit': 900, 'convnext': 900}
DISTILLATION_STEPS = 300
PARTS = 'UOS and UOS-RFF', 'UOS alone', 'UOS-RFF alone', 'neither', 'NeRN, cross-filter'
DISTILLED = {
    'vit': PARTS, 'convnext': PARTS, 'resnet20': (*MAIN, 'p = 0', 'p = 0.25'),
    'resnet56': ('UOS and UOS-RFF', 'UOS alone', 'UOS-RFF alone', 'NeRN, cross-filter')}


class Ablation:
    """Rows of a results file, and what is needed to measure more of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.name = f'ablation_{args.network}'
        self.rows: list[dict[str, Any]] = read_results(self.name).get('rows', [])
        load = cifar_original if args.network in CIFAR_RESNETS else load_original
        self.original = load(args.network, args.weights)
        self.batches = validation_batches(args.data_dir, self.original)

    def fit(self, fields: Fields, seed: int) -> dict[str, Any]:
        """Fit, and measure what was written."""
        with tempfile.TemporaryDirectory() as folder:
            artifact = timm_sbs.fit(
                self.original, pct=20, max_positions=0, second_order_steps=0, seed=seed, **fields)
            artifact.save(folder)
            model = timm.create_model(f'local-dir:{folder}', pretrained=True)
            return {**artifact_sizes(Path(folder)), 'error': round(generated_error(artifact, self.original), 4),
                    'top1': top1(model, self.batches)}

    def measure(self, regime: str, name: str, fields: Fields, seed: int, steps: int) -> None:
        key = dict(regime=regime, name=name, seed=seed)
        if any(all(row[k] == v for k, v in key.items()) for row in self.rows):
            return
        images = dict(config='quick', images=f'{self.args.data_dir}/train') if regime == 'distilled' else {}
        found = self.fit({**images, **fields, 'reconstruction_steps': steps}, seed)
        self.rows.append({**key, **found, 'fields': fields})
        print(self.rows[-1], flush=True)
        self.write()

    def write(self) -> None:
        summary: dict[str, dict[str, Any]] = {'parameters': {}, 'distilled': {}}
        for regime, found in summary.items():
            for name in dict.fromkeys(row['name'] for row in self.rows if row['regime'] == regime):
                rows = [row for row in self.rows if (row['regime'], row['name']) == (regime, name)]
                found[name] = {
                    'seeds': len(rows), 'parameters': rows[0]['parameters'],
                    'bytes': round(statistics.mean(r['bytes'] for r in rows)),
                    **{what: round(statistics.mean(r[what] for r in rows), 4) for what in ('error', 'top1')},
                    **{f'{what}_spread': round(max(r[what] for r in rows) - min(r[what] for r in rows), 4)
                       for what in ('error', 'top1')}}
        write_results(self.name, {
            'command': f'python tests/benchmarks/ablation.py --network {self.args.network} --weights FILE '
                       f'--data-dir CIFAR10',
            'seeds': sorted({row['seed'] for row in self.rows}), 'steps': self.args.steps,
            'distillation_steps': DISTILLATION_STEPS, 'pct': 20, 'rows': self.rows, 'summary': summary,
            **environment()})

    def bandwidths(self) -> Iterator[tuple[str, Fields]]:
        """Name and fields of each exponent with the best of its bandwidths, found in a third of the steps."""
        for exponent in EXPONENTS:
            trials = {}
            for factor in FACTORS:
                bandwidth = float(f'{factor * USUAL_KERNELS ** (0.5 - exponent):.4g}')
                fields = dict(bandwidth_exponent=exponent, bandwidth=bandwidth)
                name = f'bandwidth_exponent={exponent:g}, bandwidth={bandwidth:g}'
                self.measure('bandwidth trials', name, fields, 0, self.args.steps // 3)
                trials[name] = next(row for row in self.rows if row['name'] == name)
            yield f'p = {exponent:g}', min(trials.values(), key=lambda row: row['error'])['fields']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', required=True, choices=[*STEPS])
    parser.add_argument('--weights', required=True)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--steps', type=int, help='of reconstruction; default: 1500 for resnet20, else 900')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    args = parser.parse_args()
    args.steps = args.steps or STEPS[args.network]
    ablation = Ablation(args)
    few = args.network not in CIFAR_RESNETS
    configurations = {name: MAIN[name] for name in PARTS} if few else {**MAIN, **OTHERS, **dict(ablation.bandwidths())}
    for seed in args.seeds:
        for name, fields in configurations.items():
            ablation.measure('parameters', name, fields, seed, args.steps)
        for name in DISTILLED[args.network]:
            ablation.measure('distilled', name, configurations[name], seed, args.steps)
    ablation.write()


if __name__ == '__main__':
    main()
