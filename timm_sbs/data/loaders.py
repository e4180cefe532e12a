"""The images of a run: for training, for statistics, held out, and for validation.

``pretrained_cfg`` is timm's description of the original model, which says how images are resized and normalised. Each
process of ``accelerator`` gets its part of the images. All functions raise SbsError if there are no images.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from timm_sbs.common.errors import ConfigError
from timm_sbs.data.augmentation import ImageTransform, training_transform, validation_transform
from timm_sbs.data.batches import TrainingBatches
from timm_sbs.data.datasets import ImagesInMemory, Sample, open_split, open_training_images
from timm_sbs.data.settings import ImageSettings

__all__ = [
    'LEAST_IMAGES', 'CountedImages', 'train_batches', 'sample_and_held_out', 'eval_loader', 'split_indices']

SPLIT_SEED = 250_907_373  # of the choice of held-out images, the same in every run, whatever its own seed is
PART, MOST, LEAST_IMAGES = 10, 2_000, 100  # a tenth is held out, at most 2,000, and none of fewer than 100
IMAGE_CACHE = 1_000_000_000  # bytes of decoded images that are kept in memory, of those for training and held out each


@dataclass(frozen=True)
class CountedImages:
    """This process's batches of images, whose labels may be anything, and the number of images over all processes."""
    batches: DataLoader[Sample]
    count: int


def train_batches(
        settings: ImageSettings, pretrained_cfg: Mapping[str, Any], accelerator: Accelerator, seed: int = 0,
        wanted: int | None = None) -> TrainingBatches:
    """Augmented training images, without those that are held out.

    Args:
        wanted: Images that will be taken, over all processes, if that is known. Images that are taken once are not
            kept in memory.
    """
    transform = training_transform(settings, pretrained_cfg)
    files = open_training_images(settings, transform)
    dataset: Dataset[Sample] = Subset(files, training := split_indices(len(files), settings.holdout_images)[0])
    if wanted is None or wanted > len(training):
        dataset = _in_memory_if_small(dataset, transform, settings)
    return TrainingBatches(dataset, transform, settings.batch_size, settings.readers, accelerator, seed)


def sample_and_held_out(
        settings: ImageSettings, pretrained_cfg: Mapping[str, Any], accelerator: Accelerator, count: int, seed: int = 0,
) -> tuple[CountedImages, CountedImages]:
    """Training images without augmentation: some for statistics, and those that are held out.

    Args:
        count: Images for statistics, none of which are held out; all, if these are fewer.
        seed: Of their choice. The held-out images are the same in every run.
    """
    transform = validation_transform(pretrained_cfg)
    dataset = open_training_images(settings, transform)
    training, held_out = split_indices(len(dataset), settings.holdout_images)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [training[i] for i in order[:count]]
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    sample, compared = Subset(dataset, chosen[mine]), Subset(dataset, held_out[mine])
    kept = _in_memory_if_small(compared, transform, settings)
    return (CountedImages(_loader(sample, transform, settings), len(chosen)),
            CountedImages(_loader(kept, transform, settings), len(held_out)))


def eval_loader(settings: ImageSettings, pretrained_cfg: Mapping[str, Any]) -> DataLoader[Sample]:
    """Validation images, whose classes must be the model's."""
    transform = validation_transform(pretrained_cfg)
    dataset = open_split(settings, settings.validation, transform, pretrained_cfg.get('num_classes'))
    return _loader(dataset, transform, settings)


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
    size = len(dataset) * math.prod(transform.data_config['input_size'])
    if transform.is_random or size > IMAGE_CACHE:
        return dataset
    return ImagesInMemory(dataset, settings.readers)


def _loader(dataset: Any, transform: ImageTransform, settings: ImageSettings) -> DataLoader[Sample]:
    """Normalised batches in the order of the data set."""
    workers = 0 if isinstance(dataset, ImagesInMemory) else settings.readers
    return DataLoader(
        dataset, settings.batch_size, num_workers=workers, persistent_workers=workers > 0,
        collate_fn=partial(_collated, transform), generator=torch.Generator())


def _collated(transform: ImageTransform, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    images, labels = default_collate(samples)
    return transform.batch(images), labels
