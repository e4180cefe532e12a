"""Images for distillation and evaluation, through timm.data."""
from dataclasses import dataclass
from typing import Any, Mapping, Optional

import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from torch.utils.data import DataLoader
from torchvision import transforms

from timm_sbs.errors import ConfigError, SbsError

__all__ = ['DataSettings', 'train_loader', 'eval_loader']

SMALL_IMAGE = 64  # pixels; below, training images are shifted instead of being cropped and resized


@dataclass(frozen=True)
class DataSettings:
    """Where images are and how they are read. Names are those of timm's train.py."""
    data_dir: Optional[str] = None  # root of the data
    dataset: str = ''  # timm dataset name with scheme ('torch/cifar10', 'hfds/...'); empty for an ImageFolder
    train_split: str = 'train'
    val_split: str = 'validation'
    batch_size: int = 128  # images
    workers: int = 2  # processes that read images
    crop_padding: Optional[int] = None  # pixels by which training images are shifted; None: 4 below 64 pixels
    hflip: float = 0.5  # probability of a horizontal flip in training
    dataset_download: bool = False  # let torch/, hfds/ and tfds/ datasets download themselves

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ConfigError('The batch size must be at least 1 and the number of workers at least 0.')

    @property
    def given(self) -> bool:
        """Whether there are images at all."""
        return bool(self.data_dir or self.dataset)


def _dataset(settings: DataSettings, split: str, is_training: bool) -> Any:
    try:
        dataset = create_dataset(
            settings.dataset, root=settings.data_dir, split=split, is_training=is_training,
            download=settings.dataset_download, batch_size=settings.batch_size)
        size = len(dataset)
    except Exception as e:
        where = ' '.join(filter(None, [settings.dataset, settings.data_dir]))
        raise SbsError(f"No images could be read from split '{split}' of '{where}': {e}") from e
    if not size:
        raise SbsError(f"Split '{split}' of '{settings.data_dir}' holds no images.")
    return dataset


def _loader(dataset: Any, settings: DataSettings, data_config: Mapping[str, Any], is_training: bool) -> DataLoader:
    return create_loader(
        dataset,
        input_size=data_config['input_size'],
        batch_size=settings.batch_size,
        is_training=is_training,
        hflip=settings.hflip,
        color_jitter=0.,
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


def _shift_and_flip(data_config: Mapping[str, Any], padding: int, hflip: float) -> transforms.Compose:
    """The usual augmentation of small images: pad, crop at random, flip."""
    size = data_config['input_size'][1:]
    return transforms.Compose([
        transforms.Resize(size),
        transforms.RandomCrop(size, padding=padding),
        transforms.RandomHorizontalFlip(hflip),
        transforms.ToTensor(),
        transforms.Normalize(data_config['mean'], data_config['std']),
    ])


def train_loader(settings: DataSettings, pretrained_cfg: Mapping[str, Any]) -> DataLoader:
    """Augmented training images, normalised as the original model expects: batches of ([B, C, H, W], [B]).

    Raises:
        SbsError: No images are found, or fewer than one batch.
    """
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    loader = _loader(_dataset(settings, settings.train_split, True), settings, data_config, is_training=True)
    if not len(loader):
        raise SbsError(
            f"Split '{settings.train_split}' of '{settings.data_dir}' holds {len(loader.dataset)} images, fewer than "
            f'one batch of {settings.batch_size}. Lower --batch-size.')
    padding = settings.crop_padding
    if padding is None:
        padding = 4 if max(data_config['input_size'][1:]) < SMALL_IMAGE else 0
    if padding:
        loader.dataset.transform = _shift_and_flip(data_config, padding, settings.hflip)
    return loader


def eval_loader(settings: DataSettings, pretrained_cfg: Mapping[str, Any]) -> DataLoader:
    """Validation images, resized, cropped and normalised as the original model expects."""
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    return _loader(_dataset(settings, settings.val_split, False), settings, data_config, is_training=False)
