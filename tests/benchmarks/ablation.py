"""What each part of the method contributes: one configuration of the trainer for every question, three seeds each.

    python tests/benchmarks/ablation.py --network resnet20 --weights FILE --data-dir CIFAR10

'parameters': predictors of 20 % of the network's parameters, reconstruction alone. 'granularities': every choice of
--order-over, quantized at 5 bits to whole files of several sizes, with rounding in the last third of the steps; results
call order over axes 'axis', and over nothing 'none'. 'bytes': other configurations in the largest of these.
'distilled': the main ones of the first list, and of ResNet-20 the second list in one size, with 300 steps of
distillation more (the quick recipe; all of them rounded where the file is quantized). Everything is measured as a user
loads it from the written files. Bandwidths of every exponent are the best of three, around that with which a layer of
1,536 kernels gets the same one as by default; NeRN's learning rate, 0.02, was the best of four. Rows that the results
file has already are not measured again, so that a run that was stopped goes on. Takes three hours for each network on
one thread.
"""
import argparse
import itertools
import json
import os
import shlex
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from common import HERE, current_flags, write_results

from timm_sbs.artifact.folder import CONFIG_NAME, WEIGHTS_NAME, read_config
from timm_sbs.common.config import ORDER_OVER
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader
from timm_sbs.train import main as train
from timm_sbs.training.run.environment import environment

os.environ['TIMM_SBS_CACHE'] = 'off'

NERN = '--coordinates grid --encoding positional --activation relu'
MAIN = {
    'UOS and UOS-RFF': '',
    'UOS alone': '--encoding positional',
    'UOS-RFF alone': '--order-over nothing',
    'neither': '--order-over nothing --encoding positional',
    'NeRN, cross-filter': f'{NERN} --order-over layer',
    'axis': '--order-over axes',
}
OTHERS = {
    'NeRN, no order': f'{NERN} --order-over nothing',
    'NeRN, in-filter': f'{NERN} --order-over filter',
    'filter': '--order-over filter',
    'sine': '--activation sine',
    'ReLU': '--activation relu',
    **{f'{n} linear layers': f'--linear-layers {n}' for n in (3, 4, 6, 8)},
}
EXPONENTS = (0., 0.25, 0.75, 1.)  # 0.5 is the default
FACTORS = (0.5, 1., 2.)
USUAL_KERNELS = 1536
LABELS = {'axes': 'axis', 'nothing': 'none'}  # of what a path runs over, in the results; others are as the flag's
BUDGETS = {'resnet20': ('49k', '64k', '80k', '110k'), 'resnet56': ('120k', '160k', '240k')}
STEPS = {'resnet20': 1500, 'resnet56': 900}
QUANTIZED = {
    'resnet20': ('UOS alone', 'neither', 'NeRN, cross-filter', 'p = 0', 'p = 0.25'),
    'resnet56': ('UOS alone', 'neither')}
DISTILLED = {
    'resnet20': (*MAIN, 'p = 0', 'p = 0.25'),
    'resnet56': ('UOS and UOS-RFF', 'UOS alone', 'UOS-RFF alone', 'NeRN, cross-filter')}
DISTILLED_BUDGETS = {'resnet20': ('80k',), 'resnet56': ()}

Row = dict[str, Any]


class Ablation:
    """Rows of a results file, and what is needed to measure more of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.name = f'ablation_{args.network}'
        path = HERE / 'results' / f'{self.name}.json'
        rows = json.loads(path.read_text())['rows'] if path.exists() else []
        self.rows: list[Row] = [
            {**row, 'flags': shlex.join(current_flags(shlex.split(row['flags'])))} for row in rows]
        self.base = f'{args.network}_cifar10'
        cfg = timm.get_pretrained_cfg(self.base).to_dict()
        self.batches = list(eval_loader(DataSettings(args.data_dir, batch_size=250, workers=1), cfg))

    def fit(self, flags: str, seed: int, steps: int) -> Row | None:
        """Run the trainer and measure what it wrote; None if it refused."""
        with tempfile.TemporaryDirectory() as folder:
            status = train([
                '--model', self.base, '--initial-checkpoint', self.args.weights, '--pct', '20', '--max-places', '0',
                '--reconstruction-steps', str(steps), *shlex.split(flags), '--seed', str(seed), '--output', folder])
            if status:
                return None
            config, _ = read_config(folder)
            model = timm.create_model(f'local-dir:{folder}', pretrained=True)
            return {
                'parameters': config.ledger['predictor_parameters'], 'width': config.predictor.width,
                'bytes': sum((Path(folder) / name).stat().st_size for name in (CONFIG_NAME, WEIGHTS_NAME)),
                'ordering_bytes': config.ledger['ordering'],
                'error': round(config.results['reconstruction_error'], 4),
                'top1': round(evaluate(model, self.batches).top1, 2)}

    def measure(self, regime: str, name: str, flags: str, seed: int, steps: int, distill: bool = False) -> None:
        key = dict(regime=regime, name=name, seed=seed)
        if any(all(row[k] == v for k, v in key.items()) for row in self.rows):
            return
        images = f' --recipe quick --data-dir {shlex.quote(self.args.data_dir)} --workers 1' if distill else ''
        found = self.fit(flags + images, seed, steps)
        self.rows.append({**key, 'flags': flags, **(found or {'refused': True})})
        print(self.rows[-1], flush=True)
        self.write()

    def write(self) -> None:
        summary: dict[str, dict[str, Row]] = {}
        for regime, name in dict.fromkeys((row['regime'], row['name']) for row in self.rows):
            rows = [r for r in self.rows if (r['regime'], r['name']) == (regime, name) and 'error' in r]
            if rows:
                summary.setdefault(regime, {})[name] = {
                    'seeds': len(rows), 'parameters': rows[0]['parameters'],
                    'bytes': round(statistics.mean(r['bytes'] for r in rows)),
                    **{what: round(statistics.mean(r[what] for r in rows), 4) for what in ('error', 'top1')},
                    **{f'{what}_spread': round(max(r[what] for r in rows) - min(r[what] for r in rows), 4)
                       for what in ('error', 'top1')}}
        write_results(self.name, {
            'command': f'python tests/benchmarks/ablation.py --network {self.args.network} --weights FILE '
                       f'--data-dir CIFAR10',
            'seeds': sorted({row['seed'] for row in self.rows}), 'steps': self.args.steps, 'distillation_steps': 300,
            'pct': 20, 'bits': 5, 'rows': self.rows, 'summary': summary, **environment()})

    def bandwidths(self) -> Iterator[tuple[str, str]]:
        """Name and flags of each exponent with the best of its bandwidths, found in a third of the steps."""
        for exponent in EXPONENTS:
            trials = {}
            for factor in FACTORS:
                c = factor * USUAL_KERNELS ** (0.5 - exponent)
                flags = f'--bandwidth-exponent {exponent:g} --bandwidth {c:.4g}'
                self.measure('bandwidth trials', flags, flags, 0, self.args.steps // 3)
                trials[flags] = next(r['error'] for r in self.rows if r['name'] == flags)
            yield f'p = {exponent:g}', min(trials, key=trials.get)


def measure_all(ablation: Ablation, seed: int) -> None:
    """Every configuration of the chosen regimes with one seed."""
    args, steps = ablation.args, ablation.args.steps
    network, exponents = args.network, dict(ablation.bandwidths())
    configurations = {**MAIN, **OTHERS, **exponents}
    if 'parameters' in args.regimes:
        for name, flags in configurations.items():
            ablation.measure('parameters', name, flags, seed, steps)
    budgets, quantized = BUDGETS[network], {}
    if 'granularities' in args.regimes:
        quantized.update({
            (budget, LABELS.get(over, over)): f'--order-over {over}' for budget in budgets for over in ORDER_OVER})
    if 'bytes' in args.regimes:
        for name in QUANTIZED[network]:
            flags = configurations[name]
            quantized[budgets[-1], name] = flags if '--order-over' in flags else f'--order-over layer {flags}'
    for (budget, name), flags in quantized.items():
        flags = f'--bytes {budget} {flags} --bits 5 --quantization-steps {steps // 3}'
        ablation.measure(f'{budget} bytes', name, flags, seed, steps - steps // 3)
    if 'distilled' in args.regimes:
        for name in DISTILLED[network]:
            ablation.measure('distilled', name, configurations[name], seed, steps, distill=True)
        for budget, over in itertools.product(DISTILLED_BUDGETS[network], ORDER_OVER):
            flags = f'--bytes {budget} --order-over {over} --bits 5'
            name = LABELS.get(over, over)
            ablation.measure(f'{budget} bytes, distilled', name, flags, seed, steps, distill=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', required=True, choices=[*BUDGETS])
    parser.add_argument('--weights', required=True)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--steps', type=int, help='of reconstruction; default: 1500 for resnet20, 900 for resnet56')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--regimes', nargs='+', default=['parameters', 'granularities', 'bytes', 'distilled'])
    args = parser.parse_args()
    args.steps = args.steps or STEPS[args.network]
    ablation = Ablation(args)
    for seed in args.seeds:
        measure_all(ablation, seed)
    ablation.write()


if __name__ == '__main__':
    main()
