"""Time of a distillation step on ResNet-20 beside busy programs, by threads and by how these wait for each other.

    python tests/benchmarks/threads.py

Each setting is a process of its own, for OpenMP reads the environment when it is loaded. ``--busy`` programs count to
infinity meanwhile. Results say how busy the machine was besides. Takes one to five minutes.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = {
    'one thread': {'OMP_NUM_THREADS': '1'},
    'all threads': {},
    'all threads, which sleep while they wait': {'OMP_WAIT_POLICY': 'PASSIVE'},
}
BATCH, SEED, ROUNDS = 128, 0, 1  # of all settings in turn
STEPS = 2  # that are timed, after one that is not


def measured_steps() -> dict[str, float]:
    """Seconds and processor seconds of a step, in this process."""
    from common import resnet20_distillation

    distil = resnet20_distillation(BATCH, SEED)
    for steps in (1, STEPS):
        before = time.perf_counter(), time.process_time()
        distil(steps)
    after = time.perf_counter(), time.process_time()
    seconds, cpu_seconds = ((b - a) / STEPS for a, b in zip(before, after))
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)), help='(default: all cores)')
    parser.add_argument('--busy', type=int, default=1, help='programs (default: %(default)s)')
    parser.add_argument('--measure', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured_steps()))
        return
    busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(args.busy)]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    try:
        for _ in range(ROUNDS):
            for name, environment in SETTINGS.items():
                done = subprocess.run(
                    [sys.executable, __file__, '--measure'], capture_output=True, text=True, check=True,
                    env={**os.environ, 'OMP_NUM_THREADS': str(args.threads), **environment})
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, runs[name][-1])
        load = os.getloadavg()[0]
    finally:
        for program in busy:
            program.kill()
    best = {name: {key: round(min(run[key] for run in found), 3) for key in ('seconds', 'cpu_seconds')}
            for name, found in runs.items()}

    from common import write_results

    from timm_sbs.training.run.environment import environment as hardware

    write_results(Path(__file__).stem, {
        'command': 'python tests/benchmarks/threads.py', 'seed': SEED,
        'cores': len(os.sched_getaffinity(0)), 'threads': args.threads, 'busy': args.busy, 'load': round(load, 1),
        'rounds': ROUNDS, 'steps': STEPS, 'batch_size': BATCH, 'step': best, **hardware()})


if __name__ == '__main__':
    main()
