"""Images that are decoded once and kept, for small ones take longer to decode than to train on."""
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from timm_sbs.common.progress import Progress
from timm_sbs.data.augmentation import ImageSteps
from timm_sbs.data.folders import DataSettings, LabelledImages, set_transform
from timm_sbs.data.pictures import Sample

__all__ = ['ImagesInMemory', 'kept_in_memory']

READ_AT_ONCE = 256  # images


class ImagesInMemory(Dataset[Sample]):
    """A data set whose images are read at the first look, and then kept as uint8 [C, H, W]."""

    def __init__(self, dataset: LabelledImages, workers: int) -> None:
        """
        Args:
            dataset: Items are (uint8 [C, H, W], class index), the same at every look.
            workers: Processes that read them; 0 reads them in this one.
        """
        self.dataset, self._workers = dataset, workers
        self._kept: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self) -> tuple[Tensor, Tensor]:
        """All images [N, C, H, W] and class indices [N]. To be called before a process that shares them is started."""
        if self._kept is None:
            self._kept = self._read()
        return self._kept

    def __getitem__(self, index: int) -> Sample:
        images, labels = self.load()
        return images[index], int(labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What torch's loaders ask for, a batch at once: uint8 [B, C, H, W] and class indices [B]."""
        images, labels = self.load()
        at = torch.as_tensor(indices)
        return images[at], labels[at]

    def _read(self) -> tuple[Tensor, Tensor]:
        dataset: Any = self.dataset
        loader: DataLoader[Sample] = DataLoader(
            dataset, READ_AT_ONCE, num_workers=self._workers, generator=torch.Generator())
        images, labels, start = torch.empty(0), torch.empty(len(self), dtype=torch.long), 0
        with Progress(len(self), 'reading images', 'image', leave=False) as progress:
            for some, their_labels in loader:
                if not start:
                    images = torch.empty(len(self), *some.shape[1:], dtype=some.dtype)
                stop = start + len(some)
                images[start:stop], labels[start:stop] = some, their_labels
                progress.update(len(some))
                start = stop
        return images, labels


def kept_in_memory(
        dataset: Any, steps: ImageSteps, settings: DataSettings, size: tuple[int, int, int]) -> ImagesInMemory | None:
    """A data set whose images are kept in memory, as uint8 of a model's size [C, H, W]; None where that may not be.

    It may not if a random choice is the first that happens to an image, or if all images take more bytes than the
    settings allow, or are a stream. No file has to be opened to find out.
    """
    if steps.fixed is None or isinstance(dataset, IterableDataset):
        return None
    if len(dataset) * math.prod(size) > settings.image_cache:
        return None
    set_transform(dataset, steps.fixed)
    return ImagesInMemory(dataset, settings.readers)
