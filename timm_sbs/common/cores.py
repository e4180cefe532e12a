"""What a run may use: processor cores, and whether there is an accelerator."""
import os

import torch

__all__ = ['local_processes', 'reader_processes', 'uses_accelerator']

MOST_READERS = 8  # of each process of a run
CORES_PER_READER = 4  # where the network itself computes on the cores


def uses_accelerator() -> bool:
    """Whether a run computes on a GPU or the like: there is one, and ``accelerate launch --cpu`` does not forbid it."""
    forbidden = os.environ.get('ACCELERATE_USE_CPU', '').lower() in ('1', 'true', 'yes', 'y', 't', 'on')
    return torch.accelerator.is_available() and not forbidden


def local_processes() -> int:
    """Processes of a run on this machine, as torchrun and ``accelerate launch`` say."""
    return max(1, int(os.environ.get('LOCAL_WORLD_SIZE') or 1))


def reader_processes() -> int:
    """Processes that read images for each process of a run: all cores but one where a GPU waits for them, few where
    the network computes on the same cores."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    cores = bound // local_processes()
    if uses_accelerator():
        return max(1, min(MOST_READERS, cores - 1))
    return min(MOST_READERS, cores // CORES_PER_READER)
