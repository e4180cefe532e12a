"""Data sets of images, by timm.data: their splits and classes, files that cannot be read, and images kept in memory."""
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from timm_sbs.common.errors import SbsError, printable, short_reason
from timm_sbs.common.progress import LOGGER, Progress
from timm_sbs.data.augmentation import ImageTransform
from timm_sbs.data.settings import TRAIN_NAMES, ImageSettings

__all__ = ['ImageFiles', 'ImagesInMemory', 'Sample', 'open_split', 'open_training_images']

Sample = tuple[Tensor, int]  # image [C, H, W], and class index

READ_AT_ONCE = 256  # images that are then kept in memory
MODES = {1: 'L', 3: 'RGB'}  # of PIL, by the number of channels


class ImageFiles(Dataset[Sample]):
    """uint8 images of a data set of timm or torchvision. One that cannot be read is replaced by the next that can.

    Each process warns of the first such file. timm's own data set does so each time, and gives up after ten in a row.
    """

    def __init__(self, dataset: Any, transform: ImageTransform) -> None:
        self.reader = getattr(dataset, 'reader', dataset)
        self._mode, self._transform = MODES[transform.data_config['input_size'][0]], transform.single
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample:
        for number in range(index, index + len(self)):
            if found := self._read(number % len(self)):
                return self._transform(found[0]), found[1]
        raise SbsError(f"None of {len(self)} images can be read, such as '{self._name(0)}'.")

    def _read(self, index: int) -> tuple[Image.Image, int] | None:
        if index in self._unreadable:
            return None
        try:
            found, label, *_ = self.reader[index]
            image = found if isinstance(found, Image.Image) else Image.open(found)
            return image.convert(self._mode), -1 if label is None else label
        except Exception as e:  # a damaged file raises almost any error somewhere in PIL
            if not self._unreadable:
                LOGGER.warning(f"warning: image '{self._name(index)}' cannot be read, and is replaced by the next: "
                               f'{short_reason(e) or type(e).__name__}. Further ones are not reported.')
            self._unreadable.add(index)
            return None

    def _name(self, index: int) -> str:
        name = self.reader.filename(index, absolute=True) if hasattr(self.reader, 'filename') else None
        return printable(str(name or index))


class ImagesInMemory(Dataset[Sample]):
    """A data set whose images are all read when one is asked for, and then kept.

    Args:
        dataset: Items are (uint8 [C, H, W], class index), the same each time.
        workers: Processes that read them; 0: this one.
    """

    def __init__(self, dataset: Any, workers: int) -> None:
        self.dataset, self._workers = dataset, workers

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        images, labels = self.kept
        return images[index], int(labels[index])

    @cached_property
    def kept(self) -> tuple[Tensor, Tensor]:
        """All images, uint8 [N, C, H, W], and their class indices [N]."""
        loader: DataLoader[Sample] = DataLoader(
            self.dataset, READ_AT_ONCE, num_workers=self._workers, generator=torch.Generator())
        images, labels = [], []
        with Progress(len(self), 'reading images', 'image', leave=False) as progress:
            for some, their_labels in loader:
                images.append(some)
                labels.append(their_labels)
                progress.update(len(some))
        return torch.cat(images), torch.cat(labels)


def open_training_images(settings: ImageSettings, transform: ImageTransform) -> ImageFiles | ConcatDataset[Sample]:
    """Training images of all folders as one data set: see :func:`open_split`. Labels may be anything.

    Beside ``images``, ``data_dir`` may hold a validation split alone.
    """
    parts = [(ImageSettings(data_dir=folder), '') for folder in settings.images]
    only_validation = settings.train_split == 'train' and settings.splits_in_folder() and (
        not settings.splits_in_folder(TRAIN_NAMES))
    if not parts or ((settings.data_dir or settings.dataset) and not only_validation):
        parts.insert(0, (settings, settings.train_split))
    datasets = [open_split(part, split, transform) for part, split in parts]
    return datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)


def open_split(
        settings: ImageSettings, split: str, transform: ImageTransform, num_classes: int | None = None) -> ImageFiles:
    """One split as a data set of uint8 images [C, H, W] and class indices.

    Args:
        settings: Where the images are.
        split: Its name; '': all images of a folder and its subfolders, whatever these are called.
        transform: What is done to each image.
        num_classes: Of the network, if labels are used.

    Raises:
        SbsError: There are no images, or not one of them can be read; or labels cannot be the network's.
    """
    channels = transform.data_config['input_size'][0]
    if channels not in MODES:
        raise SbsError(f'The network takes images of {channels} channels, but files have 1 or 3; use --data-free.')
    which = ' '.join(filter(None, [settings.dataset, settings.data_dir]))
    which = f"split '{split}' of '{which}'" if split else f"'{which}'"
    if settings.data_dir and not settings.dataset and not Path(settings.data_dir).exists():
        raise SbsError(f'No images could be read from {which}: there is no such folder.')
    try:
        dataset: Any = create_dataset(
            settings.dataset, root=settings.data_dir, split=split, search_split=bool(split),
            download=settings.dataset_download,
            class_map=settings.class_map,  # type: ignore[arg-type]  # timm takes a file too
            input_img_mode=MODES[channels])
        reader = getattr(dataset, 'reader', dataset)
        if not len(dataset):
            raise ValueError('it is empty.')
    except Exception as e:
        reason = (short_reason(e) or type(e).__name__).replace('download=True', '--dataset-download')  # torchvision's
        raise SbsError(f'No images could be read from {which}: {reason}') from e
    splits = settings.splits_in_folder()
    if split and splits and Path(reader.root) == Path(settings.data_dir or ''):  # timm has taken the whole folder
        raise SbsError(f"'{settings.data_dir}' has no split '{split}', only {' and '.join(splits)}.")
    if num_classes:
        _check_classes(reader, settings, num_classes, which)
    files = ImageFiles(dataset, transform)
    files[0]  # raises if no file can be read
    return files


def _check_classes(reader: Any, settings: ImageSettings, num_classes: int, which: str) -> None:
    """Raises SbsError unless the classes of a data set are as many as the network's, and those of the class map."""
    classes: Mapping[str, int] = getattr(reader, 'class_to_idx', None) or {}
    num_classes = max(2, num_classes)  # a network of one output has two classes
    if settings.class_map:
        root = Path(getattr(reader, 'root', None) or '')
        folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
        unknown = sorted(name for name in folders if name not in classes and name[0] != '.')  # which timm leaves out
        numbers = sorted(classes.values())  # some are missing if a line repeats another
        if unknown or '' in classes or numbers != list(range(num_classes)):
            but = f"leaves out '{unknown[0]}'" if unknown else f'names {len(classes)}'
            raise SbsError(f"--class-map '{settings.class_map}' must name the folders of all {num_classes} classes "
                           f'once, in their order, but {but}.')
    elif classes and len(classes) != num_classes:
        raise SbsError(f'{which} has {len(classes)} classes, but the model has {num_classes}; if some classes have no '
                       f'folder, name all of them in a file for --class-map.')
