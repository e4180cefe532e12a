"""Training batches whose contents depend on the seed and on their number alone, so that a resumed run gets the same."""
import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from timm_sbs.common.errors import SbsError
from timm_sbs.common.tensors import moved
from timm_sbs.data.augmentation import ImageTransform
from timm_sbs.data.datasets import ImagesInMemory

__all__ = ['Batch', 'Batches', 'SampleBatches', 'StreamBatches', 'kept_random_states']

Batch = tuple[Tensor, Tensor]  # images [B, C, H, W] and class indices [B]
Key = tuple[int, int]  # index of an image in the data set, and its position in the sequence of all training images


@contextlib.contextmanager
def kept_random_states() -> Iterator[None]:
    """Whatever is seeded and drawn within the block leaves the states of torch, numpy and Python as they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@dataclass(frozen=True)
class SampleBatches:
    """Batches from a data set of known size.

    A batch after a resume is the one of the uninterrupted run, bit for bit, with any number of workers. torchdata's
    StatefulDataLoader returns the same images, but if there are workers it augments them differently.

    Attributes:
        dataset: Items are (image [C, H, W], class index).
        batch_size: Images per batch and process.
        workers: Processes that read images; 0: this one.
        seed: Of order and augmentation.
        process_index: Of this process, which takes its part of every global batch.
        num_processes: Of the run.
        device: That batches are for. With a ``transform`` they are already on it.
        transform: What is done to batches of uint8 images; None: images are already what the network takes.

    Raises:
        SbsError: There are fewer images than one global batch.
    """
    dataset: Any
    batch_size: int
    workers: int
    seed: int
    process_index: int = 0
    num_processes: int = 1
    device: torch.device = torch.device('cpu')
    transform: ImageTransform | None = None

    def __post_init__(self) -> None:
        if len(self.dataset) < self.batch_size * self.num_processes:
            raise SbsError(
                f'There are {len(self.dataset)} training images, fewer than one batch of {self.batch_size} for each of '
                f'{self.num_processes} process(es); use a smaller --batch-size or --holdout-images.')

    def starting_at(self, number: int) -> Iterator[Batch]:
        """Endless batches, from the one with this number on."""
        for current, (images, labels) in enumerate(self._read(self._keys(number)), number):
            if self.transform:
                generator = torch.Generator().manual_seed(_seed_of(self.seed, current, 1))  # that of an order has no 1
                images = self.transform.batch(
                    moved(images, self.device), generator, self.process_index, self.num_processes)
            yield images, labels

    def _keys(self, start: int) -> Iterator[list[Key]]:
        """Each pass over the data set has an order of its own, and leaves an incomplete last batch out."""
        size, global_batch = len(self.dataset), self.num_processes * self.batch_size
        for number in itertools.count(start):
            passed, in_pass = divmod(number, size // global_batch)
            if number == start or in_pass == 0:
                generator = torch.Generator().manual_seed(_seed_of(self.seed, passed))
                order = torch.randperm(size, generator=generator).tolist()
            first = in_pass * global_batch + self.process_index * self.batch_size
            yield [(order[i], passed * size + i) for i in range(first, first + self.batch_size)]

    def _read(self, keys: Iterable[list[Key]]) -> Iterator[Batch]:
        dataset: Any = self.dataset
        batches: Iterable[Any] = keys
        if self.transform and not self.transform.is_random:  # nothing is drawn for a single image
            batches = ([index for index, _ in batch] for batch in keys)
        else:
            dataset = _SeededImages(dataset, self.seed)
        if isinstance(dataset, ImagesInMemory):
            return map(dataset.__getitems__, batches)
        # With a generator of its own, the loader draws nothing from that of the run.
        return iter(DataLoader(
            dataset, batch_sampler=batches, num_workers=self.workers, pin_memory=self.device.type == 'cuda',
            generator=torch.Generator()))


class _SeededImages(Dataset[tuple[Tensor, int]]):
    """Images whose augmentation is drawn from a seed of their own, in whatever process they are read."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitems__(self, keys: list[Key]) -> list[tuple[Tensor, int]]:
        """What torch's loaders call for a batch: to keep numpy's state takes longer than to read an image."""
        samples = []
        with kept_random_states():
            for index, position in keys:
                seed = _seed_of(self.seed, position)
                torch.default_generator.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                samples.append(self.dataset[index])
        return samples


class StreamBatches:
    """Batches from a stream (webdataset, streamed Hugging Face data), which a resumed run starts anew."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.dataset, self._loader = loader.dataset, loader

    def starting_at(self, number: int) -> Iterator[Batch]:
        """Endless batches, whatever the number is."""
        while True:
            empty = True
            for images, labels in self._loader:
                empty = False
                yield images, labels
            if empty:
                raise SbsError('The stream of training images holds fewer than one batch.')


Batches = SampleBatches | StreamBatches
