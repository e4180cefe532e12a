"""The images of a run: for training, for statistics, held out, and for validation.

``pretrained_cfg`` is timm's description of the original model, which says how images are resized and normalised. Each
of ``num_processes`` processes gets its part of the images. All functions raise SbsError if there are no images.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, default_collate

from timm_sbs.common.errors import ConfigError
from timm_sbs.data.augmentation import ImageTransform, training_transform, validation_transform
from timm_sbs.data.batches import SampleBatches, StreamBatches
from timm_sbs.data.datasets import ImagesInMemory, Sample, open_split, open_training_images
from timm_sbs.data.settings import ImageSettings

__all__ = [
    'LEAST_IMAGES', 'HeldOutImages', 'train_batches', 'sample_loader', 'held_out_loader', 'eval_loader',
    'split_indices']

SPLIT_SEED = 250_907_373  # of the choice of held-out images, the same in every run, whatever its own seed is
PART, MOST, LEAST_IMAGES = 10, 2_000, 100  # a tenth is held out, at most 2,000, and none of fewer than 100


def train_batches(
        settings: ImageSettings,
        pretrained_cfg: Mapping[str, Any],
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        labelled: bool = False,
        wanted: int | None = None,
        device: torch.device = torch.device('cpu'),
) -> SampleBatches | StreamBatches:
    """Augmented training images, without those that are held out.

    Args:
        seed: Of order and augmentation.
        labelled: Whether labels are used, which must then be the model's.
        wanted: Images that will be taken, over all processes, if that is known. Images that are taken once are not
            kept in memory.
        device: That the batches are for.
    """
    transform = training_transform(settings, pretrained_cfg)
    dataset = open_training_images(settings, transform, pretrained_cfg.get('num_classes') if labelled else None)
    if isinstance(dataset, IterableDataset):
        return StreamBatches(_loader(dataset, transform, settings, drop_last=True))
    dataset = Subset(dataset, split_indices(len(dataset), settings.holdout_images)[0])
    if wanted is None or wanted > len(dataset):
        dataset = _in_memory_if_small(dataset, transform, settings)
    return SampleBatches(
        dataset, settings.batch_size, settings.readers, seed, process_index, num_processes, device, transform)


def sample_loader(
        settings: ImageSettings, pretrained_cfg: Mapping[str, Any], count: int, seed: int = 0,
        process_index: int = 0, num_processes: int = 1) -> tuple[DataLoader[Sample], int]:
    """``count`` training images for statistics, or all if these are fewer: without augmentation, none held out.

    Returns:
        Batches of this process's images, whose labels may be anything, and the number of all; of a stream, ``count``.
    """
    transform = validation_transform(pretrained_cfg)
    dataset = open_training_images(settings, transform)
    if not isinstance(dataset, IterableDataset):
        training, _ = split_indices(len(dataset), settings.holdout_images)
        chosen = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        count = len(chosen)
        dataset = Subset(dataset, [training[i] for i in chosen[process_index::num_processes]])
    return _loader(dataset, transform, settings), count


@dataclass(frozen=True)
class HeldOutImages:
    """Training images that are not trained on: this process's batches, and the number of images over all processes."""
    batches: DataLoader[Sample]
    count: int


def held_out_loader(
        settings: ImageSettings, pretrained_cfg: Mapping[str, Any], process_index: int = 0, num_processes: int = 1,
) -> HeldOutImages | None:
    """The held-out images, without augmentation: the same in every run. None if there are none, as of a stream."""
    transform = validation_transform(pretrained_cfg)
    dataset = open_training_images(settings, transform)
    if isinstance(dataset, IterableDataset):
        return None
    _, held_out = split_indices(len(dataset), settings.holdout_images)
    if not held_out:
        return None
    mine = _in_memory_if_small(Subset(dataset, held_out[process_index::num_processes]), transform, settings)
    return HeldOutImages(_loader(mine, transform, settings), len(held_out))


def eval_loader(settings: ImageSettings, pretrained_cfg: Mapping[str, Any]) -> DataLoader[Sample]:
    """Validation images, whose classes must be the model's."""
    transform = validation_transform(pretrained_cfg)
    dataset = open_split(settings, settings.validation, transform, pretrained_cfg.get('num_classes'))
    return _loader(_in_memory_if_small(dataset, transform, settings), transform, settings)


def split_indices(count: int, holdout_images: int | None) -> tuple[list[int], list[int]]:
    """Indices of the images to train on and of those that are held out, both ascending.

    Raises:
        ConfigError: None would be left to train on.

    Example:
        >>> training, held_out = split_indices(50_000, None)
        >>> len(training), len(held_out)
        (48000, 2000)
    """
    wanted = holdout_images
    if wanted is None:
        wanted = min(count // PART, MOST) if count >= LEAST_IMAGES else 0
    if wanted >= count:
        raise ConfigError(f'--holdout-images {wanted} leaves none of {count} training image(s) to train on.')
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    return sorted(order[wanted:]), sorted(order[:wanted])


def _in_memory_if_small(dataset: Any, transform: ImageTransform, settings: ImageSettings) -> Any:
    """A data set that keeps its images, if they are the same each time and not too many; else itself."""
    if isinstance(dataset, IterableDataset) or transform.is_random:
        return dataset
    size = len(dataset) * math.prod(transform.data_config['input_size'])
    return ImagesInMemory(dataset, settings.readers) if size <= settings.image_cache else dataset


def _loader(
        dataset: Any, transform: ImageTransform, settings: ImageSettings, drop_last: bool = False,
) -> DataLoader[Sample]:
    """Normalised batches in the order of the data set."""
    workers = 0 if isinstance(dataset, ImagesInMemory) else settings.readers
    return DataLoader(
        dataset, settings.batch_size, num_workers=workers, persistent_workers=workers > 0, drop_last=drop_last,
        collate_fn=partial(_collated, transform), generator=torch.Generator())


def _collated(transform: ImageTransform, samples: Any) -> tuple[Tensor, Tensor]:
    images, labels = samples if isinstance(samples, tuple) else default_collate(samples)
    return transform.batch(images), labels
