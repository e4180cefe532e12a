"""Runs of the trainer that are killed, and resumed beside one that never was.

    python tests/killing.py STEPS FLAGS...

runs the trainer with these flags, and kills it after so many steps of all phases.
"""
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def _start(argv: list[str], output: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-m', 'timm_sbs.train', *argv, '--output', str(output), '--resume', 'latest'],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _wait_for_work(process: subprocess.Popen, output: Path) -> None:
    """Until the run has written its arguments: before, there is nothing to lose."""
    while not (output / 'args.yaml').exists() and process.poll() is None:
        time.sleep(0.01)


def _finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)


def digests(output: Path) -> dict[str, str]:
    """Of the tensors of the best and of the last artifact."""
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest()
            for name in ('model.safetensors', 'last/model.safetensors')}


def killed_after(steps: int, argv: list[str]) -> None:
    """Run the trainer in a process that is killed after so many steps."""
    process = subprocess.run([sys.executable, __file__, str(steps), *argv], capture_output=True, text=True)
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f'not killed, but ended with {process.returncode}: {process.stderr}')


def kill_and_resume(argv: list[str], folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Run once without a kill, and ``kills`` times with a SIGKILL at a random moment and a resumption.

    Returns:
        Seconds of the uninterrupted run, and for each other its moment, the checkpoint that it went on from, and
        whether its artifacts equal the uninterrupted run's, bit by bit.
    """
    whole = folder / 'whole'
    process = _start(argv, whole)
    _wait_for_work(process, whole)
    started = time.monotonic()
    _finish(process)
    seconds = time.monotonic() - started
    generator = random.Random(seed)
    runs = []
    for index in range(kills):
        output = folder / f'killed{index}'
        moment = generator.uniform(0.02, 0.95) * seconds
        process = _start(argv, output)
        _wait_for_work(process, output)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = sorted(path.name for path in output.glob('checkpoints/checkpoint-*'))
        _finish(_start(argv, output))
        runs.append({
            'killed_after_seconds': round(moment, 2), 'was_killed': process.returncode == -signal.SIGKILL,
            'checkpoint': found[-1] if found else None, 'equal': digests(output) == digests(whole)})
    return {'seconds': round(seconds, 2), 'runs': runs}


def _die_after(steps: int, argv: list[str]) -> None:
    import resnet8  # noqa: F401  registers the network

    from timm_sbs.train import main
    from timm_sbs.training.run.run import PhaseMonitor

    done, step_done = itertools.count(1), PhaseMonitor.step_done

    def counted(monitor: PhaseMonitor, step: int) -> None:
        step_done(monitor, step)
        if next(done) == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    PhaseMonitor.step_done = counted
    sys.exit(main(argv))


if __name__ == '__main__':
    _die_after(int(sys.argv[1]), sys.argv[2:])
