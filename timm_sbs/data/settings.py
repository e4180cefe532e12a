"""Settings of images: where they are, how they are read and augmented."""
import os
from dataclasses import dataclass
from pathlib import Path

from timm_sbs.common.distributed import local_processes, uses_accelerator
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import python_only, require, require_positive

__all__ = ['ImageSettings']

TRAIN_NAMES = ('train', 'training')  # of splits, as timm takes them for each other; and of others
MOST_READERS = 8  # of each process of a run
CORES_PER_READER = 4  # where the network itself computes on the cores
STREAMS = ('hfids/', 'tfds/', 'wds/')  # timm's names of data sets that are read from front to end
OTHER_NAMES = ('val', 'valid', 'validation', 'eval', 'evaluation', 'test')


@dataclass(frozen=True)
class ImageSettings:
    """Training and validation images

    Attributes:
        images: Folders of training images. No labels are needed, and subfolders are searched too.
        data_dir: Folder with train/CLASS and validation/CLASS, or the root of --dataset.
        dataset: timm data set, such as torch/cifar10 or hfds/NAME (default: a folder of images).
        dataset_download: Download the data set if it is missing.
        train_split: Split of training images.
        val_split: Split of labelled images that measure the result, '' for none (default: validation, if there is one).
        class_map: Text file that names the class folders, one per line, in the order of the model's classes.
        holdout_images: How many training images are not trained on, but choose the best artifact (default: a tenth, at
            most 2,000; none if there are fewer than 100 images).
        data_free: Draw the training images, so that they match the BatchNorm statistics of the original model.
        synthetic_images: How many are drawn.
        synthetic_steps: Optimization steps that draw them.
        batch_size: Images per batch and process.
        workers: Processes that read images, for each process (default: by the number of cores).
        no_aug: Do not augment training images.
        scale: Smallest and largest area of a random crop, as parts of the image; images below 64 pixels are shifted
            by up to 4 instead.
        mixup: Mix pairs of training images, in shares drawn from Beta(mixup, mixup); 0: never.
        train_size: Height of the images in distillation, or its first and last height (default: the model's).
    """
    images: tuple[str, ...] = ()
    data_dir: str | None = None
    dataset: str = ''
    dataset_download: bool = False
    train_split: str = python_only('train')
    val_split: str | None = None
    class_map: str = ''
    holdout_images: int | None = None
    data_free: bool = False
    synthetic_images: int = python_only(512)
    synthetic_steps: int = python_only(100)
    batch_size: int = 128
    workers: int | None = None
    no_aug: bool = False
    scale: tuple[float, float] = python_only((0.08, 1.))
    mixup: float = 0.
    train_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check all values. In paths, ~ is the home folder; a single folder of images need not be in a tuple."""
        images = (self.images,) if isinstance(self.images, (str, os.PathLike)) else self.images
        object.__setattr__(self, 'images', tuple(os.path.expanduser(folder) for folder in images))
        object.__setattr__(self, 'data_dir', os.path.expanduser(self.data_dir) if self.data_dir else None)
        object.__setattr__(self, 'class_map', os.path.expanduser(self.class_map))
        for name in ('holdout_images', 'workers', 'mixup'):
            require(self, name, lambda value: value >= 0, '0 or more')
        require_positive(self, 'synthetic_images', 'synthetic_steps', 'batch_size')
        if self.data_free and self.images:
            raise ConfigError('--data-free draws all training images, so it cannot be combined with --images.')
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f'scale is {self.scale}, but must be two parts of an area, from above 0 to 1.')
        if len(self.train_size) > 2 or min(self.train_size, default=1) < 1:
            raise ConfigError('--train-size must be one height or two, of 1 pixel or more.')
        if self.dataset.lower().startswith(STREAMS):
            raise ConfigError(f'--dataset {self.dataset} is a stream, of which no images can be held out or read again '
                              f'after a resume; use a folder of its images, or --dataset torch/... or hfds/...')
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
        """Processes that read images, for each process of the run; 0: that process itself. By default all cores but one
        where a GPU waits for them, few where the network computes on the same cores."""
        if self.workers is not None:
            return self.workers
        bound = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        cores = bound // local_processes()
        return min(MOST_READERS, max(1, cores - 1) if uses_accelerator() else cores // CORES_PER_READER)

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
