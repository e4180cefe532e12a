"""Batches of images for training, statistics and evaluation, through timm.data."""
from collections.abc import Mapping
from typing import Any

import torch
from timm.data import create_loader, create_transform, resolve_data_config
from torch.utils.data import DataLoader, IterableDataset, Subset
from torchvision import transforms

from timm_sbs.common.errors import ConfigError, short_reason
from timm_sbs.data.batches import Sample, SampleBatches, StreamBatches
from timm_sbs.data.folders import (
    DataSettings,
    Transform,
    check_classes,
    check_folders,
    open_split,
    open_training_images,
)

__all__ = ['train_batches', 'eval_loader', 'sample_loader']

SMALL_IMAGE = 64  # pixels; below, training images are shifted instead of being cropped and resized


def _plain_transform(data_config: Mapping[str, Any]) -> Transform:
    """What validation images go through."""
    return create_transform(
        tuple(data_config['input_size']), interpolation=data_config['interpolation'], mean=data_config['mean'],
        std=data_config['std'], crop_pct=data_config['crop_pct'], crop_mode=data_config.get('crop_mode'))


def _train_transform(settings: DataSettings, data_config: Mapping[str, Any]) -> Transform:
    if settings.no_aug:
        return _plain_transform(data_config)
    size = tuple(data_config['input_size'])
    transform = create_transform(
        size, is_training=True, scale=settings.scale, ratio=settings.ratio, hflip=settings.hflip, vflip=settings.vflip,
        color_jitter=settings.color_jitter or None,  # type: ignore[arg-type]  # None: timm's way to have none
        auto_augment=settings.aa, re_prob=settings.reprob,
        interpolation=data_config['interpolation'], mean=data_config['mean'], std=data_config['std'])
    padding = settings.crop_padding
    if padding is None:
        padding = 4 if max(size[1:]) < SMALL_IMAGE else 0
    if padding:  # shifts instead of timm's first step, the random resized crop
        shift = [transforms.Resize(size[1:]), transforms.RandomCrop(size[1:], padding=padding)]
        transform = transforms.Compose([*shift, *transform.transforms[1:]])
    return transform


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
        num_workers=settings.workers,
        use_prefetcher=False,
        persistent_workers=settings.workers > 0,
        device=torch.device('cpu'),
    )


def train_batches(
        settings: DataSettings,
        pretrained_cfg: Mapping[str, Any],
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        labelled: bool = False,
) -> SampleBatches | StreamBatches:
    """Augmented training images, normalised as the original model expects.

    Args:
        settings: Where the images are, and their augmentation.
        pretrained_cfg: timm's description of the original.
        seed: Of order and augmentation.
        process_index: Of this process.
        num_processes: Of the run.
        labelled: Whether their labels are used, and so must be the model's.

    Raises:
        SbsError: No images are found, or fewer than one batch, or their classes are not as many as the model's; or timm
            cannot make the augmentation.
    """
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    try:
        transform = _train_transform(settings, data_config)
    except (ValueError, AssertionError, KeyError, TypeError) as e:
        raise ConfigError(f'timm cannot make this augmentation of training images: {short_reason(e)}') from e
    dataset = open_training_images(settings, True, transform)
    if labelled:
        check_folders(dataset, settings)
        check_classes(dataset, settings, pretrained_cfg.get('num_classes'), settings.train_split)
    streamed = isinstance(dataset, IterableDataset)
    if streamed:
        loader = _create_loader(dataset, settings, data_config, training=True)  # sets one of its own
        dataset.transform = transform
        return StreamBatches(loader)
    return SampleBatches(
        dataset, settings.batch_size, settings.workers, seed, process_index, num_processes,
        pin_memory=torch.cuda.is_available())


def sample_loader(
        settings: DataSettings,
        pretrained_cfg: Mapping[str, Any],
        count: int,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
) -> tuple[DataLoader[Sample], int]:
    """Some training images without augmentation, as validation images are read. Their labels are whatever they are.

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
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    dataset = open_training_images(settings, False, _plain_transform(data_config))
    if not isinstance(dataset, IterableDataset):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(dataset), generator=generator)[:count].tolist()
        count = len(chosen)
        part = chosen[process_index::num_processes]
        return DataLoader(
            Subset(dataset, part), settings.batch_size, num_workers=settings.workers,
            generator=torch.Generator()), count
    return _create_loader(dataset, settings, data_config, training=False), count


def eval_loader(settings: DataSettings, pretrained_cfg: Mapping[str, Any]) -> DataLoader[Sample]:
    """Validation images, resized, cropped and normalised as the original model expects.

    Raises:
        SbsError: No images are found, or their classes are not as many as the model's.
    """
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    dataset = open_split(settings, settings.validation, False)
    check_folders(dataset, settings)
    check_classes(dataset, settings, pretrained_cfg.get('num_classes'), settings.validation)
    return _create_loader(dataset, settings, data_config, training=False)
