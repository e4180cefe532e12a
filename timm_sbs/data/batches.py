"""Training batches that can be taken up at any step: what a batch holds depends on the seed and its number alone."""
import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from timm_sbs.common.errors import SbsError

__all__ = ['Batch', 'Batches', 'LabelledImages', 'Sample', 'SampleBatches', 'StreamBatches', 'kept_random_states']

# Images [B, C, H, W], class indices [B], and places of the images in their data set [B].
Batch = tuple[Tensor, Tensor, Tensor]
Sample = tuple[Tensor, int]  # image [C, H, W], and class index
Key = tuple[int, int]  # place of an image in its data set, and its place in the sequence of all training images


class LabelledImages(Protocol):
    """A data set of known size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Batches(Protocol):
    """Endless training batches."""

    def starting_at(self, number: int) -> Iterator[Batch]:
        """Batches from that with this number on."""


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


class _SeededSamples(Dataset[tuple[Tensor, int, int]]):
    """Images whose augmentation is drawn from a seed of their own, in whatever process they are read."""

    def __init__(self, dataset: LabelledImages, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int]:
        index, place = key
        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        with kept_random_states():
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            image, label = self.dataset[index]
        return image, label, index


class _BatchKeys(Sampler[list[Key]]):
    """Endless batches of keys; each pass over the data has an order of its own, and a short last batch is left out."""

    def __init__(
            self, size: int, batch_size: int, seed: int, process_index: int, num_processes: int, start: int) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.process_index = process_index
        self.num_processes = num_processes
        self.start = start

    def __iter__(self) -> Iterator[list[Key]]:
        per_pass = self.size // (self.batch_size * self.num_processes)
        number = self.start
        while True:
            seed = int(np.random.SeedSequence([self.seed, number // per_pass]).generate_state(1)[0])
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(seed)).tolist()
            for in_pass in range(number % per_pass, per_pass):
                first = (in_pass * self.num_processes + self.process_index) * self.batch_size
                offset = (number // per_pass) * self.size
                yield [(order[i], offset + i) for i in range(first, first + self.batch_size)]
                number += 1


class SampleBatches:
    """Batches from a data set of known size.

    accelerate can skip batches too, but does not replay the augmentation of those that follow; here a batch taken up
    after a resume is the very batch of the uninterrupted run. With several processes, each takes its part of every
    global batch.
    """

    def __init__(
            self,
            dataset: LabelledImages,
            batch_size: int,
            workers: int,
            seed: int,
            process_index: int = 0,
            num_processes: int = 1,
            pin_memory: bool = False,
    ) -> None:
        """
        Args:
            dataset: Items are (image [C, H, W], class index).
            batch_size: Images of one batch of one process.
            workers: Processes that read images; 0 reads them in this one.
            seed: Of order and augmentation.
            process_index: Of this process.
            num_processes: Of the run.
            pin_memory: For a faster way to a GPU.

        Raises:
            SbsError: There are fewer images than one global batch.
        """
        if len(dataset) < batch_size * num_processes:
            raise SbsError(
                f'The training split holds {len(dataset)} images, fewer than one batch of {batch_size} for each of '
                f'{num_processes} process(es). Lower --batch-size.')
        self.dataset = dataset
        self._samples = _SeededSamples(dataset, seed)
        self._keys = (len(dataset), batch_size, seed, process_index, num_processes)
        self._workers, self._pin_memory = workers, pin_memory

    def starting_at(self, number: int) -> Iterator[Batch]:
        """Endless batches, from that with this number on."""
        keys = _BatchKeys(*self._keys, start=number)
        return self._load(keys)

    def in_order(self) -> Iterator[Batch]:
        """Each image of the data set once, over all processes together."""
        size, batch_size, _, process_index, num_processes = self._keys
        mine = [(i, i) for i in range(process_index, size, num_processes)]
        return self._load([mine[i:i + batch_size] for i in range(0, len(mine), batch_size)])

    def _load(self, keys: Iterable[list[Key]]) -> Iterator[Batch]:
        # With a generator of its own, the loader draws nothing from that of the run.
        return iter(DataLoader(
            self._samples, batch_sampler=keys, num_workers=self._workers, pin_memory=self._pin_memory,
            generator=torch.Generator()))


class StreamBatches:
    """Batches from a stream (webdataset, streamed Hugging Face data): a resumed run starts the stream anew."""

    def __init__(self, loader: DataLoader[Sample]) -> None:
        if not isinstance(loader.dataset, IterableDataset):
            raise TypeError('A stream is an IterableDataset.')
        self.dataset = loader.dataset
        self._loader = loader

    def starting_at(self, number: int) -> Iterator[Batch]:
        while True:
            empty = True
            for images, labels in self._loader:
                empty = False
                yield images, labels, torch.full((len(images),), -1)
            if empty:
                raise SbsError('The stream of training images is empty.')
