"""The threads of a run on the CPU: no more than there are cores for.

OpenMP's threads wait for each other after every layer, and by default they spin while they wait. One that has no core
of its own, for another program is busy, holds up all others: a step on two threads then takes many times as long as on
one (docs/results.md).
"""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from timm_sbs.common.cores import local_processes, usable_cores
from timm_sbs.common.devices import uses_accelerator

__all__ = ['Threads', 'settle_threads', 'used_threads']

LITTLE = 0.1  # of all cores' time that other programs may take without being noticed
LOOK = 0.1  # seconds over which it is measured how busy the cores are
BY_USER = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')  # environment variables, which launchers set too


@dataclass(frozen=True)
class Threads:
    """A number of threads, and a clause that says why, if it is not what torch would have taken."""
    count: int
    why: str = ''

    def __str__(self) -> str:
        return f"on {self.count} CPU thread{'s' if self.count > 1 else ''}{f' ({self.why})' if self.why else ''}"


def settle_threads(recorded: int | None = None) -> Threads:
    """The threads of this process: as many as the user says, else as torch takes, but not more than there are cores.

    Several processes share the cores that this one may use. A single process on the CPU leaves alone those that other
    programs keep busy now.

    Args:
        recorded: What the run had before it was stopped, if it is resumed, for results depend on it in their last bits.
    """
    usual, cores, processes = torch.get_num_threads(), usable_cores(), local_processes()
    named = next((name for name in BY_USER if os.environ.get(name)), None)
    other = f'; {recorded} before the run was stopped, so that last digits will differ' if recorded else ''
    if named:
        return Threads(usual, f'as {named} says{other if recorded != usual else ""}')
    if recorded and recorded <= cores:
        return Threads(recorded, 'as before the run was stopped')
    if recorded:
        return Threads(max(1, min(usual, cores // processes)), f'there are no more{other}')
    if processes > 1:
        return Threads(max(1, min(usual, cores // processes)), f'{processes} processes share {cores} cores')
    usual = min(usual, cores)
    if usual == 1 or uses_accelerator():
        return Threads(usual)
    free = max(1, min(usual, _free_cores(cores)))
    if free == usual:
        return Threads(usual)
    return Threads(free, f'of {usual}, for other programs keep the cores busy; OMP_NUM_THREADS overrules this')


def _free_cores(cores: int) -> int:
    """Cores for which no program has work now, of those that this process may use; a little work is no program."""
    busy = psutil.cpu_percent(interval=LOOK, percpu=True)
    if hasattr(os, 'sched_getaffinity'):
        busy = [busy[core] for core in os.sched_getaffinity(0) if core < len(busy)]
    working = sum(busy) / 100
    return cores if working < max(0.5, LITTLE * cores) else round(max(0., cores - working))


@contextmanager
def used_threads(threads: Threads) -> Iterator[None]:
    """Within the block torch computes on so many threads; then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads.count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
