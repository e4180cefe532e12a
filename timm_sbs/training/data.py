"""Images for distillation and evaluation, through timm.data."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple, Union

import torch
from timm.data import create_dataset, create_loader, create_transform, resolve_data_config
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset
from torchvision import transforms

from timm_sbs.errors import ConfigError, SbsError, short_reason
from timm_sbs.training.batches import SampleBatches, StreamBatches

__all__ = ['DataSettings', 'train_batches', 'eval_loader', 'sample_loader']

SMALL_IMAGE = 64  # pixels; below, training images are shifted instead of being cropped and resized
TRAIN = 'train'
VALIDATION = 'validation'
# Names of splits that timm takes for each other, and one more that folders often have.
_SPLITS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'), ('test',))


@dataclass(frozen=True)
class DataSettings:
    """Where images are and how they are read. Names are those of timm's train.py."""
    data_dir: Optional[str] = None  # root of the data
    unlabelled_dirs: Tuple[str, ...] = ()  # more training images, whose subfolders mean nothing
    class_map: str = ''  # text file with the names of class folders in the order of the model's classes
    dataset: str = ''  # timm dataset name with scheme ('torch/cifar10', 'hfds/...', 'wds/...'); empty: an ImageFolder
    train_split: str = TRAIN
    val_split: Optional[str] = None  # empty: there are no images to measure on; None: 'validation', if there is one
    batch_size: int = 128  # images of one batch, on each process
    workers: int = 2  # processes that read images, for each process
    no_aug: bool = False  # training images as validation images are: then the original's outputs are computed once
    crop_padding: Optional[int] = None  # pixels by which training images are shifted; None: 4 below 64 pixels
    hflip: float = 0.5  # probability of a horizontal flip in training
    vflip: float = 0.  # probability of a vertical flip
    scale: Tuple[float, float] = (0.08, 1.)  # part of the area that a random crop keeps
    ratio: Tuple[float, float] = (3 / 4, 4 / 3)  # width over height of a random crop
    color_jitter: float = 0.
    aa: Optional[str] = None  # timm's AutoAugment policy, such as 'rand-m9-mstd0.5'
    reprob: float = 0.  # probability of random erasing
    mixup: float = 0.  # shares of two mixed training images are drawn from Beta(mixup, mixup); 0 mixes none
    cutmix: float = 0.  # the same for pasted rectangles
    dataset_download: bool = False  # let torch/, hfds/ and tfds/ datasets download themselves

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ConfigError('The batch size must be at least 1 and the number of workers at least 0.')
        if min(self.mixup, self.cutmix) < 0:
            raise ConfigError('--mixup and --cutmix must be 0 or more.')
        if self.mixes and self.batch_size % 2:
            raise ConfigError(f'--mixup and --cutmix take pairs of images, so --batch-size must be even, not '
                              f'{self.batch_size}.')
        if self.class_map and Path(self.class_map).suffix != '.txt':
            raise ConfigError(f"--class-map '{self.class_map}' must be a .txt file, with one class folder in a line.")
        if self.class_map:
            _check_class_map(Path(self.class_map))
        for folder in self.unlabelled_dirs:
            if not folder or not Path(folder).is_dir():
                raise ConfigError(f"--unlabelled-dir '{folder}' is no folder.")

    @property
    def given(self) -> bool:
        """Whether there are images at all."""
        return bool(self.data_dir or self.dataset or self.unlabelled_dirs)

    @property
    def where(self) -> str:
        """Where the images are, for a message."""
        return ' '.join(filter(None, [self.dataset, self.data_dir, *self.unlabelled_dirs]))

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return bool(self.mixup or self.cutmix)

    @property
    def validation(self) -> str:
        """Split to measure on, or '' where there is none: a folder without splits has unlabelled images, and one of
        which nothing was said may have a train split alone."""
        if self.val_split is None and not self.dataset and self.data_dir and Path(self.data_dir).is_dir():
            found = _splits_in(Path(self.data_dir))
            return VALIDATION if any(name in _SPLITS[1] or name in _SPLITS[2] for name in found) else ''
        if not (self.data_dir or self.dataset):
            return ''
        return VALIDATION if self.val_split is None else self.val_split


def _check_class_map(path: Path) -> None:
    """Raises ConfigError where a line has no class, or one that is there already: those that follow would be wrong."""
    try:
        names = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"--class-map '{path}' cannot be read: {short_reason(e)}") from e
    if names and names[0].startswith('\ufeff'):
        raise ConfigError(f"--class-map '{path}' begins with a byte order mark, which would be part of the first name. "
                          f'Save it as UTF-8 without one.')
    seen = set()
    for number, name in enumerate(names, 1):
        if not name or name in seen:
            what = f"names '{name}' again" if name else 'is empty'
            raise ConfigError(f"--class-map '{path}': line {number} {what}. Each line must name the folder of another "
                              f"class, in the order of the model's classes.")
        seen.add(name)


def _splits_in(folder: Path) -> List[str]:
    return [path.name for path in sorted(folder.iterdir()) if any(path.name in names for names in _SPLITS)]


def _check_split(settings: DataSettings, split: str) -> None:
    """timm takes the whole folder for a split that it does not find; not where there are others.

    Raises:
        SbsError: There is no such split, but another.
    """
    if not _has_split(settings, split):
        found = ' and '.join(_splits_in(Path(settings.data_dir)))
        raise SbsError(f"'{settings.data_dir}' has no split '{split}', but {found}. Check --train-split and "
                       f'--val-split.')


def _has_split(settings: DataSettings, split: str) -> bool:
    """Whether a folder has a split, or none at all, so that all of its images are of any split."""
    folder = Path(settings.data_dir or '')
    if settings.dataset.split('/')[0] in ('hfds', 'hfids', 'wds', 'tfds') or not folder.is_dir():
        return True  # the data set itself knows
    synonyms = next((names for names in _SPLITS if split in names), (split,))
    names = (split.split('[')[0], *synonyms)
    return not _splits_in(folder) or any((folder / name).exists() for name in names)


def _dataset(settings: DataSettings, split: str, is_training: bool) -> Any:
    """One split, or, if it is '', all images of a folder, whatever its subfolders are called."""
    where = ' '.join(filter(None, [settings.dataset, settings.data_dir]))
    if split:
        _check_split(settings, split)
    which = f"split '{split}' of '{where}'" if split else f"'{where}'"
    try:
        dataset = create_dataset(
            settings.dataset, root=settings.data_dir, split=split, is_training=is_training,
            search_split=bool(split), download=settings.dataset_download, batch_size=settings.batch_size,
            class_map=settings.class_map)
        empty = not isinstance(dataset, IterableDataset) and not len(dataset)
    except (Exception, SystemExit) as e:
        reason = short_reason(e)
        if settings.data_dir and not settings.dataset and not Path(settings.data_dir).exists():
            reason = 'there is no such folder.'
        raise SbsError(f'No images could be read from {which}: {reason}') from e
    if empty:
        raise SbsError(f'{which[0].upper()}{which[1:]} holds no images.')
    return dataset


def _train_dataset(settings: DataSettings, is_training: bool, transform: Any) -> Any:
    """Training images of all folders, with one transform.

    Raises:
        SbsError: A folder holds no images.
    """
    parts = [(DataSettings(folder), '') for folder in settings.unlabelled_dirs]
    labelled = bool(settings.data_dir or settings.dataset)
    # Beside unlabelled folders, the others may be for validation alone, unless a split was asked for.
    if not parts or labelled and (_has_split(settings, settings.train_split) or settings.train_split != TRAIN):
        parts.insert(0, (settings, settings.train_split))
    datasets = [_dataset(part, split, is_training) for part, split in parts]
    if isinstance(datasets[0], IterableDataset) and len(datasets) > 1:
        raise SbsError('--unlabelled-dir does not go together with a --dataset that is streamed.')
    for dataset in datasets:
        dataset.transform = transform
    return datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)


def _plain_transform(data_config: Mapping[str, Any]) -> Any:
    """What validation images go through."""
    return create_transform(
        tuple(data_config['input_size']), interpolation=data_config['interpolation'], mean=data_config['mean'],
        std=data_config['std'], crop_pct=data_config['crop_pct'], crop_mode=data_config.get('crop_mode'))


def _train_transform(settings: DataSettings, data_config: Mapping[str, Any]) -> Any:
    if settings.no_aug:
        return _plain_transform(data_config)
    size = tuple(data_config['input_size'])
    transform = create_transform(
        size, is_training=True, scale=settings.scale, ratio=settings.ratio, hflip=settings.hflip, vflip=settings.vflip,
        color_jitter=settings.color_jitter or None, auto_augment=settings.aa, re_prob=settings.reprob,
        interpolation=data_config['interpolation'], mean=data_config['mean'], std=data_config['std'])
    padding = settings.crop_padding
    if padding is None:
        padding = 4 if max(size[1:]) < SMALL_IMAGE else 0
    if padding:  # shifts instead of timm's first step, the random resized crop
        shift = [transforms.Resize(size[1:]), transforms.RandomCrop(size[1:], padding=padding)]
        transform = transforms.Compose([*shift, *transform.transforms[1:]])
    return transform


def _create_loader(dataset: Any, settings: DataSettings, data_config: Mapping[str, Any], training: bool) -> DataLoader:
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
) -> Union[SampleBatches, StreamBatches]:
    """Augmented training images, normalised as the original model expects.

    Raises:
        SbsError: No images are found, or fewer than one batch.
    """
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    transform = _train_transform(settings, data_config)
    dataset = _train_dataset(settings, True, transform)
    if isinstance(dataset, IterableDataset):
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
) -> Tuple[DataLoader, int]:
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
    dataset = _train_dataset(settings, False, _plain_transform(data_config))
    if not isinstance(dataset, IterableDataset):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(dataset), generator=generator)[:count].tolist()
        count = len(chosen)
        part = chosen[process_index::num_processes]
        return DataLoader(
            Subset(dataset, part), settings.batch_size, num_workers=settings.workers,
            generator=torch.Generator()), count
    return _create_loader(dataset, settings, data_config, training=False), count


def eval_loader(settings: DataSettings, pretrained_cfg: Mapping[str, Any]) -> DataLoader:
    """Validation images, resized, cropped and normalised as the original model expects.

    Raises:
        SbsError: No images are found, or their classes are not as many as the model's.
    """
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    dataset = _dataset(settings, settings.validation, False)
    _check_folders(dataset, settings)
    _check_classes(dataset, settings, pretrained_cfg.get('num_classes'))
    return _create_loader(dataset, settings, data_config, training=False)


def _check_folders(dataset: Any, settings: DataSettings) -> None:
    """Raises SbsError where a folder of labelled images is missing in the class map, which leaves its images out."""
    reader = getattr(dataset, 'reader', None)
    root = Path(getattr(reader, 'root', None) or settings.data_dir or '')
    if not settings.class_map or not root.is_dir():
        return
    unknown = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in reader.class_to_idx)
    if unknown:
        others = f' and {len(unknown) - 1} others' if len(unknown) > 1 else ''
        raise SbsError(f"--class-map '{settings.class_map}' does not name '{unknown[0]}'{others}, of the folders in "
                       f"'{root}'.")


def _check_classes(dataset: Any, settings: DataSettings, num_classes: Optional[int]) -> None:
    """Raises SbsError where labels cannot be the model's, for a class is missing or surplus."""
    classes = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None)
    if classes and num_classes and len(classes) != num_classes and settings.class_map:
        raise SbsError(
            f"--class-map '{settings.class_map}' names {len(classes)} classes, but the model has {num_classes}. It must "
            f'name all of them, in their order.')
    if classes and num_classes and len(classes) != num_classes:
        raise SbsError(
            f"Split '{settings.validation}' of '{settings.data_dir}' holds {len(classes)} classes, but the model has "
            f'{num_classes}. There must be a folder for every class.')
