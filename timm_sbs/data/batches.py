"""Training batches whose contents depend on the seed and on their number alone, so that a resumed run gets the same."""
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from timm_sbs.common.errors import SbsError
from timm_sbs.common.tensors import moved
from timm_sbs.data.augmentation import ImageTransform, kept_random_states, mixed, resize, seed_of, size_at
from timm_sbs.data.datasets import ImagesInMemory

__all__ = ['TrainingBatches']

Key = tuple[int, list[int]]  # seed of a batch, and the indices of its images in the data set


@dataclass(frozen=True)
class TrainingBatches:
    """Batches of augmented training images, without labels.

    A batch after a resume is the one of the uninterrupted run, bit for bit, with any number of workers. torchdata's
    StatefulDataLoader returns the same images, but if there are workers it augments them differently.

    Attributes:
        dataset: Items are (uint8 [C, H, W], anything).
        transform: What is done to a batch of them.
        batch_size: Images per batch and process.
        workers: Processes that read images; 0: this one.
        accelerator: Device, and the processes, each of which takes its part of every global batch.
        seed: Of order, augmentation and mixing.
        mixup: See :func:`timm_sbs.data.augmentation.mixed`.
        sizes: First and last height of the images, or a single one; none: as they are.
        count: Of all batches of a run, over which the height changes.

    Raises:
        SbsError: There are fewer images than one global batch.
    """
    dataset: Any
    transform: ImageTransform
    batch_size: int
    workers: int
    accelerator: Accelerator
    seed: int = 0
    mixup: float = 0.
    sizes: tuple[int, ...] = ()
    count: int = 0

    def __post_init__(self) -> None:
        if len(self.dataset) < self.batch_size * self.accelerator.num_processes:
            raise SbsError(
                f'There are {len(self.dataset)} training images, fewer than one batch of {self.batch_size} for each of '
                f'{self.accelerator.num_processes} process(es); use a smaller --batch-size or --holdout-images.')

    def starting_at(self, number: int) -> Iterator[Tensor]:
        """Endless batches [B, C, H, W] on the device, from the one with this number on."""
        for current, images in enumerate(self._read(number), number):
            seed = self._seed_of(current)
            images = self.transform.batch(moved(images, self.accelerator.device), torch.Generator().manual_seed(seed))
            images = mixed(images, self.mixup, seed)
            yield resize(images, size_at(self.sizes, current, self.count)) if self.sizes else images

    def _seed_of(self, number: int) -> int:
        """Of what a process draws for a batch; an order's has no 1."""
        return seed_of(self.seed, number, 1, self.accelerator.process_index)

    def _keys(self, start: int) -> Iterator[Key]:
        """Each pass over the data set has an order of its own, and leaves an incomplete last batch out."""
        size, global_batch = len(self.dataset), self.accelerator.num_processes * self.batch_size
        for number in itertools.count(start):
            passed, in_pass = divmod(number, size // global_batch)
            if number == start or in_pass == 0:
                generator = torch.Generator().manual_seed(seed_of(self.seed, passed))
                order = torch.randperm(size, generator=generator).tolist()
            first = in_pass * global_batch + self.accelerator.process_index * self.batch_size
            yield self._seed_of(number), order[first:first + self.batch_size]

    def _read(self, number: int) -> Iterator[Tensor]:
        keys = self._keys(number)
        if isinstance(self.dataset, ImagesInMemory):
            return (self.dataset.kept[0][indices] for _, indices in keys)
        # With a generator of its own, the loader draws nothing from that of the run.
        return iter(DataLoader(
            _SeededBatches(self.dataset), None, sampler=keys, num_workers=self.workers,
            pin_memory=self.accelerator.device.type == 'cuda', generator=torch.Generator()))


class _SeededBatches(Dataset[Tensor]):
    """Batches of images whose augmentation is drawn from a seed of their own, in whatever process they are read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Tensor:
        seed, indices = key
        with kept_random_states(seed):
            return torch.stack([self.dataset[index][0] for index in indices])
