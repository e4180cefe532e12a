"""Training batches that can be taken up at any step: what a batch holds depends on the seed and its number alone."""
import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from timm_sbs.common.devices import moved
from timm_sbs.common.errors import SbsError
from timm_sbs.data.augmentation import BatchTransform
from timm_sbs.data.folders import LabelledImages
from timm_sbs.data.in_memory import ImagesInMemory
from timm_sbs.data.pictures import Sample

__all__ = ['Batch', 'Batches', 'SampleBatches', 'StreamBatches', 'kept_random_states']

# Images [B, C, H, W], class indices [B], and places of the images in their data set [B].
Batch = tuple[Tensor, Tensor, Tensor]
Key = tuple[int, int]  # place of an image in its data set, and its place in the sequence of all training images


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

    def __getitems__(self, keys: list[Key]) -> list[tuple[Tensor, int, int]]:
        """What torch's loaders ask for, a batch at once: to keep numpy's state takes longer than to read an image."""
        with kept_random_states():
            return [self[key] for key in keys]

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int]:
        index, place = key
        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        image, label = self.dataset[index]
        return image, label, index


class _NumberedSamples(Dataset[tuple[Tensor, int, int]]):
    """Images of which nothing is drawn before they are a batch."""

    def __init__(self, dataset: LabelledImages) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int]:
        index, _ = key
        return *self.dataset[index], index


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
            device: torch.device = torch.device('cpu'),
            transform: BatchTransform | None = None,
    ) -> None:
        """
        Args:
            dataset: Items are (image [C, H, W], class index).
            batch_size: Images of one batch of one process.
            workers: Processes that read images; 0 reads them in this one, as it does with images in memory.
            seed: Of order and augmentation.
            process_index: Of this process.
            num_processes: Of the run.
            device: That batches will be moved to; those with a ``transform`` are there already.
            transform: What is drawn for a whole batch of uint8 images; None: items are what the network takes.

        Raises:
            SbsError: There are fewer images than one global batch.
        """
        if len(dataset) < batch_size * num_processes:
            raise SbsError(
                f'The training split holds {len(dataset)} images, fewer than one batch of {batch_size} for each of '
                f'{num_processes} process(es). Lower --batch-size or --holdout-images.')
        self.dataset = dataset
        self._keys = (len(dataset), batch_size, seed, process_index, num_processes)
        self._workers, self._device, self._transform = workers, device, transform

    def starting_at(self, number: int) -> Iterator[Batch]:
        """Endless batches, from that with this number on."""
        return self._finished(self._read(_BatchKeys(*self._keys, start=number)), number)

    def in_order(self) -> Iterator[Batch]:
        """Each image of the data set once, over all processes together."""
        size, batch_size, _, process_index, num_processes = self._keys
        mine = [(i, i) for i in range(process_index, size, num_processes)]
        return self._finished(self._read([mine[i:i + batch_size] for i in range(0, len(mine), batch_size)]), 0)

    def _read(self, keys: Iterable[list[Key]]) -> Iterator[Batch]:
        """Batches as the data set has them."""
        if isinstance(self.dataset, ImagesInMemory):
            self.dataset.load()  # before workers share it
            if self._transform:
                return self._taken(self.dataset, keys)
        samples = _NumberedSamples(self.dataset) if self._transform else _SeededSamples(self.dataset, self._keys[2])
        # With a generator of its own, the loader draws nothing from that of the run.
        return iter(DataLoader(
            samples, batch_sampler=keys, num_workers=self._workers, pin_memory=self._device.type == 'cuda',
            generator=torch.Generator()))

    @staticmethod
    def _taken(images: ImagesInMemory, keys: Iterable[list[Key]]) -> Iterator[Batch]:
        for batch in keys:
            indices = [index for index, _ in batch]
            yield *images.__getitems__(indices), torch.tensor(indices)

    def _finished(self, batches: Iterator[Batch], first: int) -> Iterator[Batch]:
        """Batches as the network takes them; ``first`` is the number of the first."""
        if self._transform is None:
            return batches
        return (self._transformed(self._transform, batch, number) for number, batch in enumerate(batches, first))

    def _transformed(self, transform: BatchTransform, batch: Batch, number: int) -> Batch:
        _, batch_size, seed, process_index, num_processes = self._keys
        images, labels, indices = batch
        images = moved(images, self._device)
        drawn = int(np.random.SeedSequence([seed, number, 1]).generate_state(1)[0])  # the order has no third number
        first = process_index * batch_size
        images = transform.augmented(
            images, torch.Generator().manual_seed(drawn), slice(first, first + batch_size), num_processes * batch_size)
        return transform.normalised(images), labels, indices


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
