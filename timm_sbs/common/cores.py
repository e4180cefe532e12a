"""Processor cores: how many this process may use, and how many threads and readers of images take them."""
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from timm_sbs.common.devices import uses_accelerator

__all__ = ['local_processes', 'reader_processes', 'threads_for_cores', 'usable_cores']

MOST_READERS = 8  # for each process of a run
CORES_FOR_A_READER = 4  # where the network computes on the cores that are left
# What a container may use, in microseconds of processor time and of time: cgroup v2, and v1.
_QUOTAS = (('/sys/fs/cgroup/cpu.max',), ('/sys/fs/cgroup/cpu/cpu.cfs_quota_us', '/sys/fs/cgroup/cpu/cpu.cfs_period_us'))


def local_processes() -> int:
    """Processes of a run on this machine, as torchrun and ``accelerate launch`` say."""
    return max(1, int(os.environ.get('LOCAL_WORLD_SIZE') or 1))


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, or as many as its container's quota amounts to."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        bound = os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota())))


def _quota() -> float:
    """Cores of processor time that a container may use; infinite where nothing limits it."""
    for files in _QUOTAS:
        try:
            quota, period = ' '.join(Path(file).read_text(encoding='utf-8') for file in files).split()
            return int(quota) / int(period) if int(quota) > 0 else math.inf
        except (OSError, ValueError, ZeroDivisionError):  # ValueError: 'max'
            continue
    return math.inf


@contextmanager
def threads_for_cores(recorded: int | None = None) -> Iterator[None]:
    """Within the block torch computes on no more threads than this process has cores for, unless the user has set their
    number; then on as many as before.

    Args:
        recorded: Threads of a run before it was stopped, if it is resumed, for the last bits of results depend on them.
    """
    before = torch.get_num_threads()
    if not (os.environ.get('OMP_NUM_THREADS') or os.environ.get('MKL_NUM_THREADS')):
        torch.set_num_threads(max(1, min(recorded or before, usable_cores() // local_processes())))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reader_processes() -> int:
    """Processes that read images for each process of a run. A GPU waits for them, so that they may take all cores but
    one; a network on the CPU computes longer than it takes to read its images, and it would have to wait for cores."""
    cores = usable_cores() // local_processes()
    if uses_accelerator():
        return max(1, min(MOST_READERS, cores - 1))
    return min(MOST_READERS, cores // CORES_FOR_A_READER)
