"""How long images take to be read, alone and beside what is computed with them."""
import statistics
import time
from collections.abc import Sized
from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from torch.utils.data import IterableDataset

from timm_sbs.common.cores import local_processes, usable_cores
from timm_sbs.common.distributed import decided_once
from timm_sbs.data.folders import LabelledImages
from timm_sbs.data.in_memory import ImagesInMemory

__all__ = ['Reading', 'ReadingForecast']

READING_SECONDS, READ_IMAGES = 0.25, 32  # of a data set, whichever comes first


@dataclass(frozen=True)
class Reading:
    """Seconds of reading images: of all, once, and of each at every look."""
    once: float = 0.
    each: float = 0.


class ReadingForecast:
    """Times the reading of some images of a run."""

    def __init__(self, readers: int, accelerator: Accelerator) -> None:
        """``readers`` are worker processes."""
        self._readers, self._accelerator = readers, accelerator

    def of(self, dataset: object) -> Reading:
        """Images that are kept in memory are read once; what happens to them then takes next to no time. A stream is
        not looked at, for its first image may take minutes."""
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            return Reading()
        kept = isinstance(dataset, ImagesInMemory)
        images = cast(LabelledImages, dataset.dataset if isinstance(dataset, ImagesInMemory) else dataset)
        each = decided_once(lambda: _reading_seconds(images), self._accelerator)
        return Reading(once=len(images) * each / max(1, self._readers)) if kept else Reading(each=each)

    def beside(self, computing: float, reading: float) -> float:
        """Seconds of computing and reading the same images, where worker processes read.

        These read while others are computed with, so that the slower of both counts; but all share the cores.
        """
        if not self._readers:
            return computing + reading
        threads = torch.get_num_threads() if self._accelerator.device.type == 'cpu' else 1
        of_cores = (computing * threads + reading) * local_processes() / usable_cores()
        return max(computing, reading / self._readers, of_cores)


def _reading_seconds(dataset: LabelledImages) -> float:
    """Seconds of an image, from some all over a data set; the first one opens what is opened once."""
    count = len(dataset)
    times: list[float] = []
    for number in range(min(count, READ_IMAGES)):
        began = time.perf_counter()
        dataset[number * count // READ_IMAGES % count]
        times.append(time.perf_counter() - began)
        if sum(times) > READING_SECONDS:
            break
    return statistics.mean(times[1:] or times)
