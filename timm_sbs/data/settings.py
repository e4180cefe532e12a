"""Settings of images: where they are, how they are read and augmented."""
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from timm_sbs.common.cores import reader_processes
from timm_sbs.common.errors import ConfigError

__all__ = ['ImageSettings']

TRAIN_NAMES = ('train', 'training')  # of splits, as timm takes them for each other; and of others
OTHER_NAMES = ('val', 'valid', 'validation', 'eval', 'evaluation', 'test')


def _no_flag(default: Any) -> Any:
    """A field that Python and YAML set, and that has no flag on the command line."""
    return field(default=default, metadata={'flag': False})


@dataclass(frozen=True)
class ImageSettings:
    """Training and validation images

    Attributes:
        images: Folders of training images. No labels are needed, and subfolders are searched too.
        data_dir: Folder with train/CLASS and validation/CLASS, or the root of --dataset.
        dataset: timm data set, such as torch/cifar10, hfds/NAME or wds/NAME (default: a folder of images).
        dataset_download: Download the data set if it is missing.
        train_split: Split of training images.
        val_split: Split of labelled images that measure the result, '' for none (default: validation, if there is one).
        class_map: Text file that names the class folders, one per line, in the order of the model's classes.
        holdout_images: Training images that are not trained on, but choose which artifact is kept
            (default: a tenth, at most 2,000, and none of fewer than 100).
        data_free: Draw the training images: inversion matches the BatchNorm statistics of the original model, noise
            has the spectrum of photographs.
        synthetic_images: Images that inversion draws.
        synthetic_steps: Optimization steps of inversion.
        batch_size: Images per batch and process.
        workers: Processes that read images, for each process (default: by the number of cores).
        image_cache: Bytes of decoded images that are kept in memory for each split; more are read again each time.
        no_aug: Do not augment training images.
        crop_padding: Shift training images by up to so many pixels; 0: crop and resize them at random instead
            (default: 4 for images below 64 pixels, else 0).
        hflip: Probability of a horizontal flip.
        scale: Smallest and largest area of a random crop, as parts of the image.
        mixup: Mix pairs of training images, in shares drawn from Beta(mixup, mixup); 0: never.
        cutmix: Paste rectangles of one training image into another, with areas drawn likewise; 0: never.
        train_size: Height of the images in distillation, or its first and last height (default: the model's).
    """
    images: tuple[str, ...] = ()
    data_dir: str | None = None
    dataset: str = ''
    dataset_download: bool = False
    train_split: str = _no_flag('train')
    val_split: str | None = None
    class_map: str = ''
    holdout_images: int | None = None
    data_free: Literal['inversion', 'noise'] | None = None
    synthetic_images: int = _no_flag(512)
    synthetic_steps: int = _no_flag(100)
    batch_size: int = 128
    workers: int | None = None
    image_cache: int = _no_flag(1_000_000_000)
    no_aug: bool = False
    crop_padding: int | None = _no_flag(None)
    hflip: float = _no_flag(0.5)
    scale: tuple[float, float] = _no_flag((0.08, 1.))
    mixup: float = 0.
    cutmix: float = _no_flag(0.)
    train_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check all values. In paths, ~ is the home folder; a single folder of images need not be in a tuple."""
        images = (self.images,) if isinstance(self.images, (str, os.PathLike)) else self.images
        object.__setattr__(self, 'images', tuple(os.path.expanduser(folder) for folder in images))
        object.__setattr__(self, 'data_dir', os.path.expanduser(self.data_dir) if self.data_dir else None)
        object.__setattr__(self, 'class_map', os.path.expanduser(self.class_map))
        for name, value, least in (
                ('--holdout-images', self.holdout_images, 0), ('synthetic_images', self.synthetic_images, 1),
                ('synthetic_steps', self.synthetic_steps, 1), ('--batch-size', self.batch_size, 1),
                ('--workers', self.workers, 0), ('image_cache', self.image_cache, 0),
                ('crop_padding', self.crop_padding, 0), ('--mixup', self.mixup, 0), ('cutmix', self.cutmix, 0)):
            if value is not None and not value >= least:
                raise ConfigError(f'{name} is {value}, but must be {least} or more.')
        if self.data_free not in (None, 'inversion', 'noise'):
            raise ConfigError(f"--data-free is '{self.data_free}', but must be 'inversion' or 'noise'.")
        if self.data_free and self.images:
            raise ConfigError('--data-free draws all training images, so it cannot be combined with --images.')
        if not 0 <= self.hflip <= 1:
            raise ConfigError(f'hflip is {self.hflip}, but must be from 0 to 1.')
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f'scale is {self.scale}, but must be two parts of an area, from above 0 to 1.')
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ConfigError(f'--mixup and cutmix need an even --batch-size, not {self.batch_size}.')
        if len(self.train_size) > 2 or min(self.train_size, default=1) < 1:
            raise ConfigError('--train-size must be one height or two, of 1 pixel or more.')
        if self.class_map and not self.class_map.endswith('.txt'):
            raise ConfigError(f"--class-map '{self.class_map}' must be a .txt file with one class folder per line.")
        if self.class_map and self.dataset.startswith('torch/'):
            raise ConfigError(f'--dataset {self.dataset} has its own classes, so --class-map cannot be used.')

    @property
    def given(self) -> bool:
        """Whether there are images to read."""
        return bool(self.data_dir or self.dataset or self.images)

    @property
    def where(self) -> str:
        """Where they are, for messages."""
        return ' '.join(filter(None, [self.dataset, self.data_dir, *self.images]))

    @property
    def readers(self) -> int:
        """Processes that read images, for each process of the run; 0: that process itself."""
        return reader_processes() if self.workers is None else self.workers

    @property
    def validation(self) -> str:
        """Split to measure on; '' if there is none, as in a folder without splits, or with a train split alone."""
        if self.val_split is not None:
            return self.val_split if self.data_dir or self.dataset else ''
        has_own_layout = self.dataset and not self.is_folder
        return 'validation' if has_own_layout or self.splits_in_folder(OTHER_NAMES) else ''

    @property
    def is_folder(self) -> bool:
        """Whether ``data_dir`` is a folder of splits and classes, without a layout that the data set alone knows."""
        folders = ('', 'torch/folder', 'torch/image_folder')
        return self.dataset in folders and bool(self.data_dir) and Path(self.data_dir or '').is_dir()

    def splits_in_folder(self, names: tuple[str, ...] = (*TRAIN_NAMES, *OTHER_NAMES)) -> list[str]:
        """Splits of these names in ``data_dir``, if that is a folder of splits."""
        return [name for name in names if self.is_folder and (Path(self.data_dir or '') / name).exists()]
