"""Folders and data sets of images, through timm.data: where they are, and which splits they have."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from timm.data import create_dataset, get_img_extensions
from torch.utils.data import IterableDataset, Subset

from timm_sbs.common.cores import reader_processes
from timm_sbs.common.errors import ConfigError, SbsError, short_reason
from timm_sbs.data.pictures import Pictures, PictureStream, Sample, Transform, drop_hidden, image_mode

__all__ = [
    'DataSettings', 'LabelledImages', 'open_split', 'open_training_images', 'set_transform', 'check_folders',
    'check_classes',
]

TRAIN = 'train'
VALIDATION = 'validation'
MORE_EXTENSIONS = ('.avif', '.bmp', '.gif', '.jp2', '.pgm', '.ppm', '.tif', '.tiff', '.webp')  # that PIL reads
# Names of splits that timm takes for each other, and one more that folders often have.
_SPLITS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'), ('test',))


class LabelledImages(Protocol):
    """A data set of known size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class DataSettings:
    """Where images are and how they are read. Names are those of timm's train.py."""
    data_dir: str | None = None  # root of the data
    unlabelled_dirs: tuple[str, ...] = ()  # more training images, whose subfolders mean nothing
    class_map: str = ''  # text file with the names of class folders in the order of the model's classes
    dataset: str = ''  # timm dataset name with scheme ('torch/cifar10', 'hfds/...', 'wds/...'); empty: an ImageFolder
    train_split: str = TRAIN
    holdout_images: int | None = None  # training images that are not trained on; None: as split_places says
    val_split: str | None = None  # empty: there are no images to measure on; None: 'validation', if there is one
    batch_size: int = 128  # images of one batch, on each process
    workers: int | None = None  # processes that read images, for each process; None: as the cores allow
    image_cache: int = 1_000_000_000  # bytes of decoded images that each process keeps of a split, or none of them
    no_aug: bool = False  # training images as validation images are: then the original's outputs are computed once
    crop_padding: int | None = None  # pixels by which training images are shifted; None: 4 below 64 pixels
    hflip: float = 0.5  # probability of a horizontal flip in training
    scale: tuple[float, float] = (0.08, 1.)  # part of the area that a random crop keeps
    mixup: float = 0.  # shares of two mixed training images are drawn from Beta(mixup, mixup); 0 mixes none
    cutmix: float = 0.  # the same for pasted rectangles
    dataset_download: bool = False  # let torch/, hfds/ and tfds/ datasets download themselves

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.workers or 0) < 0:
            raise ConfigError('The batch size must be at least 1 and the number of workers at least 0.')
        if (self.holdout_images or 0) < 0:
            raise ConfigError(f'--holdout-images is {self.holdout_images}, but must be 0 or more.')
        if self.image_cache < 0:
            raise ConfigError(f'--image-cache is {self.image_cache}, but must be 0 or more bytes.')
        if not 0 <= self.hflip <= 1:
            raise ConfigError(f'--hflip is {self.hflip}, but must be from 0 to 1.')
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f'--scale is {self.scale}, but must be two parts of an area, from above 0 to 1.')
        if (self.crop_padding or 0) < 0:
            raise ConfigError(f'--crop-padding is {self.crop_padding}, but must be 0 or more.')
        if min(self.mixup, self.cutmix) < 0:
            raise ConfigError('--mixup and --cutmix must be 0 or more.')
        if self.mixes and self.batch_size % 2:
            raise ConfigError(f'--mixup and --cutmix take pairs of images, so --batch-size must be even, not '
                              f'{self.batch_size}.')
        if self.class_map and Path(self.class_map).suffix != '.txt':
            raise ConfigError(f"--class-map '{self.class_map}' must be a .txt file, with one class folder in a line.")
        if self.class_map and self.dataset.startswith('torch/'):
            raise ConfigError(f"--class-map is for folders of images: --dataset {self.dataset} has classes of its own.")
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
    def readers(self) -> int:
        """Processes that read images, for each process of the run; 0: that process itself."""
        return reader_processes() if self.workers is None else self.workers

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


def _splits_in(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.iterdir()) if any(path.name in names for names in _SPLITS)]


def _check_split(settings: DataSettings, split: str) -> None:
    """timm takes the whole folder for a split that it does not find; not where there are others.

    Raises:
        SbsError: There is no such split, but another.
    """
    if not _has_split(settings, split):
        found = ' and '.join(_splits_in(Path(settings.data_dir or '')))
        raise SbsError(f"'{settings.data_dir}' has no split '{split}', but {found}. Check --train-split and "
                       f'--val-split.')


def _has_split(settings: DataSettings, split: str) -> bool:
    """Whether a folder has a split, or none at all, so that all of its images are of any split."""
    folder = Path(settings.data_dir or '')
    own = settings.dataset.split('/')[0] in ('hfds', 'hfids', 'wds', 'tfds')
    if own or not settings.data_dir or not folder.is_dir():
        return True  # the data set itself knows
    synonyms = next((names for names in _SPLITS if split in names), (split,))
    names = (split.split('[')[0], *synonyms)
    return not _splits_in(folder) or any((folder / name).exists() for name in names)


def open_split(
        settings: DataSettings, split: str, channels: int, is_training: bool = False) -> Pictures | PictureStream:
    """One split, or, if it is '', all images of a folder, whatever its subfolders are called.

    Args:
        settings: Where the images are.
        split: Its name.
        channels: Of the network's images.
        is_training: Whether a stream is shuffled.

    Raises:
        SbsError: There are no images, or most of them cannot be read, or all are the same.
    """
    mode = image_mode(channels)
    where = ' '.join(filter(None, [settings.dataset, settings.data_dir]))
    if split:
        _check_split(settings, split)
    which = f"split '{split}' of '{where}'" if split else f"'{where}'"
    is_folder = not settings.dataset and Path(settings.data_dir or '').is_dir()
    # How timm's reader of folders takes more extensions than its own three; '' leaves PIL images as they are.
    own: dict[str, Any] = {'input_key': ';'.join([*get_img_extensions(), *MORE_EXTENSIONS])} if is_folder else {}
    try:
        dataset = create_dataset(
            settings.dataset, root=settings.data_dir, split=split, is_training=is_training,
            search_split=bool(split), download=settings.dataset_download, batch_size=settings.batch_size,
            class_map=settings.class_map,  # type: ignore[arg-type]  # timm takes a file too
            input_img_mode=mode if settings.dataset.lower().startswith('tfds/') else '', **own)
        if isinstance(dataset, IterableDataset):
            return PictureStream(dataset, channels)
        hidden = drop_hidden(getattr(dataset, 'reader', dataset), bool(settings.class_map))
    except (Exception, SystemExit) as e:
        reason = short_reason(e)
        if settings.data_dir and not settings.dataset and not Path(settings.data_dir).exists():
            reason = 'there is no such folder.'
        raise SbsError(f'No images could be read from {which}: {reason}') from e
    notes = [f"{len(hidden):,} hidden file(s) in {which} were skipped, such as '{hidden[0]}'."] if hidden else []
    if not len(dataset):
        raise SbsError(' '.join([f'{which[0].upper()}{which[1:]} holds no images.', *notes]))
    pictures = Pictures([dataset], channels, notes)
    pictures.look(which)
    return pictures


def open_training_images(settings: DataSettings, channels: int, is_training: bool, transform: Transform) -> Any:
    """Training images of all folders, with one transform.

    Raises:
        SbsError: As of :func:`open_split`.
    """
    parts = [(DataSettings(folder), '') for folder in settings.unlabelled_dirs]
    labelled = bool(settings.data_dir or settings.dataset)
    # Beside unlabelled folders, the others may be for validation alone, unless a split was asked for.
    if not parts or (labelled and (_has_split(settings, settings.train_split) or settings.train_split != TRAIN)):
        parts.insert(0, (settings, settings.train_split))
    datasets = [open_split(part, split, channels, is_training) for part, split in parts]
    if isinstance(datasets[0], IterableDataset) and len(datasets) > 1:
        raise SbsError('--unlabelled-dir does not go together with a --dataset that is streamed.')
    dataset = datasets[0] if len(datasets) == 1 else Pictures(datasets, channels)
    dataset.transform = transform
    return dataset


def set_transform(dataset: Any, transform: Transform) -> None:
    """Let a data set, or that which it is a part of, transform its images like this."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    dataset.transform = transform


def check_folders(dataset: object, settings: DataSettings) -> None:
    """Raises SbsError where a folder of labelled images is missing in the class map, which leaves its images out."""
    reader = getattr(dataset, 'reader', None)
    root = Path(getattr(reader, 'root', None) or settings.data_dir or '')
    if reader is None or not settings.class_map or not root.is_dir():
        return
    unknown = sorted(
        path.name for path in root.iterdir()
        if path.is_dir() and path.name[0] != '.' and path.name not in reader.class_to_idx)
    if unknown:
        others = f' and {len(unknown) - 1} others' if len(unknown) > 1 else ''
        raise SbsError(f"--class-map '{settings.class_map}' does not name '{unknown[0]}'{others}, of the folders in "
                       f"'{root}'.")


def check_classes(dataset: object, settings: DataSettings, num_classes: int | None, split: str) -> None:
    """Raises SbsError where labels cannot be the model's, for a class is missing or surplus."""
    classes = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None)
    if num_classes == 1:
        num_classes = 2  # the one logit is that of the second
    if classes and num_classes and len(classes) != num_classes and settings.class_map:
        raise SbsError(
            f"--class-map '{settings.class_map}' names {len(classes)} classes, but the model has {num_classes}. It "
            f'must name all of them, in their order.')
    if classes and num_classes and len(classes) != num_classes:
        raise SbsError(
            f"Split '{split}' of '{settings.data_dir}' holds {len(classes)} classes, but the model has "
            f'{num_classes}. Without a folder for every class, --class-map must name all classes, in their order.')
