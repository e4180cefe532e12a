"""Batches of images for training, statistics and evaluation, through timm.data."""
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.data import create_loader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from timm_sbs.data.augmentation import BatchTransform, ImageSteps, plain_steps, training_steps
from timm_sbs.data.batches import SampleBatches, StreamBatches
from timm_sbs.data.folders import (
    DataSettings,
    check_classes,
    check_folders,
    open_split,
    open_training_images,
    set_transform,
)
from timm_sbs.data.held_out import part_of
from timm_sbs.data.in_memory import kept_in_memory
from timm_sbs.data.pictures import Sample, data_config_of

__all__ = ['HeldOutImages', 'train_batches', 'eval_loader', 'sample_loader', 'held_out_loader']


@dataclass(frozen=True)
class HeldOutImages:
    """Training images that no step sees, as validation images are read.

    Attributes:
        batches: This process's part of them. Labels are whatever they are.
        count: Over all processes.
    """
    batches: DataLoader[Sample]
    count: int


def _create_loader(
        dataset: Any, settings: DataSettings, data_config: Mapping[str, Any], training: bool) -> DataLoader[Sample]:
    return create_loader(
        dataset,
        input_size=tuple(data_config['input_size']),
        batch_size=settings.batch_size,
        is_training=training,
        interpolation=data_config['interpolation'],
        mean=data_config['mean'],
        std=data_config['std'],
        crop_pct=data_config['crop_pct'],
        crop_mode=data_config.get('crop_mode'),
        num_workers=settings.readers,
        use_prefetcher=False,
        persistent_workers=settings.readers > 0,
        device=torch.device('cpu'),
    )


def train_batches(
        settings: DataSettings,
        pretrained_cfg: Mapping[str, Any],
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        labelled: bool = False,
        wanted: int | None = None,
        device: torch.device = torch.device('cpu'),
) -> SampleBatches | StreamBatches:
    """Augmented training images, normalised as the original model expects, without those that are held out.

    Args:
        settings: Where the images are, and their augmentation.
        pretrained_cfg: timm's description of the original.
        seed: Of order and augmentation.
        process_index: Of this process.
        num_processes: Of the run.
        labelled: Whether their labels are used, and so must be the model's.
        wanted: Images that will be taken, over all processes. If these are not more than there are, none is kept in
            memory, because none would be looked at again. None: endlessly many.
        device: That the batches are for.

    Raises:
        SbsError: No images are found, or fewer than one batch, or their classes are not as many as the model's.
    """
    data_config = data_config_of(pretrained_cfg)
    steps = training_steps(settings, data_config)
    dataset = open_training_images(settings, data_config['input_size'][0], True, steps.first)
    if labelled:
        check_folders(dataset, settings)
        check_classes(dataset, settings, pretrained_cfg.get('num_classes'), settings.train_split)
    if isinstance(dataset, IterableDataset):
        loader = _create_loader(dataset, settings, data_config, training=True)  # sets one of its own
        set_transform(dataset, steps.whole)
        return StreamBatches(loader)
    dataset = part_of(dataset, settings.holdout_images)
    seen_again = wanted is None or wanted > len(dataset)
    kept = kept_in_memory(dataset, steps, settings, data_config['input_size']) if seen_again else None
    return SampleBatches(
        kept or dataset, settings.batch_size, settings.readers, seed, process_index, num_processes, device, steps.batch)


def sample_loader(
        settings: DataSettings,
        pretrained_cfg: Mapping[str, Any],
        count: int,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
) -> tuple[DataLoader[Sample], int]:
    """Some training images without augmentation, as validation images are read. Their labels are whatever they are, and
    none is held out.

    Args:
        settings: Where the images are.
        pretrained_cfg: timm's description of the original.
        count: Images, over all processes; all there are, if these are fewer.
        seed: Of the choice.
        process_index: Of this process.
        num_processes: Of the run.

    Returns:
        Batches of this process's images, and the number of all; of a stream, ``count``, whatever it holds.

    Raises:
        SbsError: No images are found.
    """
    data_config = data_config_of(pretrained_cfg)
    channels, steps = data_config['input_size'][0], plain_steps(data_config)
    dataset = part_of(open_training_images(settings, channels, False, steps.whole), settings.holdout_images)
    if not isinstance(dataset, IterableDataset):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(dataset), generator=generator)[:count].tolist()
        count = len(chosen)
        part = chosen[process_index::num_processes]
        return DataLoader(
            Subset(dataset, part), settings.batch_size, num_workers=settings.readers,
            generator=torch.Generator()), count
    return _create_loader(dataset, settings, data_config, training=False), count


def held_out_loader(
        settings: DataSettings,
        pretrained_cfg: Mapping[str, Any],
        process_index: int = 0,
        num_processes: int = 1,
) -> HeldOutImages | None:
    """The training images that are held out, the same in every run; None where there are none.

    Args:
        settings: Where the images are, and how many of them are held out.
        pretrained_cfg: timm's description of the original.
        process_index: Of this process.
        num_processes: Of the run.

    Raises:
        SbsError: No images are found, or none would be left to train on.
    """
    data_config = data_config_of(pretrained_cfg)
    channels, steps = data_config['input_size'][0], plain_steps(data_config)
    dataset = part_of(
        open_training_images(settings, channels, False, steps.whole), settings.holdout_images, held_out=True)
    if dataset is None:
        return None
    mine = Subset(dataset, range(process_index, len(dataset), num_processes))
    return HeldOutImages(_plain_loader(mine, settings, steps, data_config), len(dataset))


def eval_loader(settings: DataSettings, pretrained_cfg: Mapping[str, Any]) -> DataLoader[Sample]:
    """Validation images, resized, cropped and normalised as the original model expects.

    Raises:
        SbsError: No images are found, or their classes are not as many as the model's.
    """
    data_config = data_config_of(pretrained_cfg)
    dataset = open_split(settings, settings.validation, data_config['input_size'][0])
    check_folders(dataset, settings)
    check_classes(dataset, settings, pretrained_cfg.get('num_classes'), settings.validation)
    return _plain_loader(dataset, settings, plain_steps(data_config), data_config)


def _plain_loader(
        dataset: Any, settings: DataSettings, steps: ImageSteps, data_config: Mapping[str, Any]) -> DataLoader[Sample]:
    """Images without augmentation, kept in memory where they may be. A part of a data set has its transform already."""
    kept = kept_in_memory(dataset, steps, settings, data_config['input_size'])
    if kept and steps.batch:
        return DataLoader(
            kept, settings.batch_size, generator=torch.Generator(), collate_fn=partial(_normalised, steps.batch))
    return _create_loader(dataset, settings, data_config, training=False)


def _normalised(transform: BatchTransform, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return transform.normalised(images), labels
