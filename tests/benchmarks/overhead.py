"""What fitting and loading cost: ours beside NeRN's loop with its configuration, in time and memory.

    python tests/benchmarks/overhead.py --weights-56 FILE

Both predictors have 20 % of the network's parameters. Each is measured in a process of its own: the search of its
ordering, a step of its training loop on the weights alone (ours takes 4,096 kernels, NeRN's all of them, as it is
published; see nern_loop.py), the peak memory of such training above that of the process with the original network in
it, and the time to generate all weights. Takes a minute on two threads.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import NERN, RESNET20, seconds, write_results
from nern_loop import NernLoop

from timm_sbs.artifact.original import load_original
from timm_sbs.common.config import OrderingConfig
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.monitor import Monitor
from timm_sbs.training.steps.reconstruction import group_targets, reconstruct

STEPS, WARM_UP, REPEATS = 30, 5, 7


def resident(key: str) -> int:
    return int(re.search(rf'{key}:\s+(\d+)', Path('/proc/self/status').read_text())[1]) * 1024


class Clock(Monitor):
    def __init__(self) -> None:
        self.moments = [time.perf_counter()]

    def step_done(self, step: int) -> None:
        self.moments.append(time.perf_counter())


def measure(method: str, name: str, weights: str) -> dict[str, Any]:
    """Everything about one method and network, in this process."""
    original = load_original(name, weights)
    chosen = design(original, **(NERN if method == 'nern' else {}))
    find_orderings(original, chosen.specs[:1], OrderingConfig())  # compiles
    Path('/proc/self/clear_refs').write_text('5')
    before = resident('VmRSS')
    started = time.perf_counter()
    permutations = find_orderings(original, chosen.specs, chosen.generator.ordering)
    ordering = time.perf_counter() - started
    generator = start_artifact(chosen, permutations, original, seed=0).generator
    clock = Clock()
    if method == 'nern':
        loop = NernLoop(generator, *group_targets(generator, original.state_dict()), seed=0)
        clock.moments = [time.perf_counter()]
        for step in range(STEPS):
            loop.step()
            clock.step_done(step)
    else:
        reconstruct(generator, original.state_dict(), ReconstructionSettings(STEPS), monitor=clock)
    steps = [later - earlier for earlier, later in zip(clock.moments, clock.moments[1:])][WARM_UP:]
    peak = resident('VmHWM') - before
    generating = [seconds(generator.eval()) for _ in range(1 + REPEATS)][1:]
    return {
        'parameters': generator.num_parameters,
        'ordering_seconds': round(ordering, 2), 'step_ms': round(1000 * statistics.median(steps), 1),
        'peak_mb': round(peak / 1e6), 'generating_ms': round(1000 * statistics.median(generating), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights-56', required=True)
    parser.add_argument('--measure', nargs=3, metavar=('METHOD', 'NETWORK', 'WEIGHTS'), help='in this process')
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    results: dict[str, Any] = {'command': 'python tests/benchmarks/overhead.py --weights-56 FILE', 'seed': 0,
                               'steps': STEPS, 'networks': {}}
    for network, weights in (('resnet20', RESNET20), ('resnet56', args.weights_56)):
        for method in ('ours', 'nern'):
            shown = subprocess.run(
                [sys.executable, __file__, '--weights-56', args.weights_56, '--measure', method, f'{network}_cifar10',
                 str(weights)], capture_output=True, text=True, check=True)
            results['networks'].setdefault(network, {})[method] = json.loads(shown.stdout)
            print(network, method, shown.stdout.strip(), flush=True)
    write_results('overhead', {**results, **environment()})


if __name__ == '__main__':
    main()
