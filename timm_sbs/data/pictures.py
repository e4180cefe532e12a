"""Pictures: how files become images of the channels that a network has, and what happens to those that cannot."""
import copy
import ctypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from PIL import Image, UnidentifiedImageError
from timm.data import IterableImageDataset, resolve_data_config
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from timm_sbs.common.errors import SbsError, short_reason

__all__ = [
    'Pictures', 'PictureStream', 'Sample', 'Transform', 'data_config_of', 'describe_skipped', 'drop_hidden',
    'image_mode', 'in_mode', 'pictures_of',
]

Transform = Callable[[Image.Image], Tensor]
Sample = tuple[Tensor, int]  # image [C, H, W], and class index

MODES = {1: 'L', 3: 'RGB'}  # of images, by their channels
LOOKED_AT = 64  # pictures, spread over a data set, when it is opened
MANY = 1 / 20  # of these: so many of one colour, or equal to others, are worth a warning
HIDDEN = re.compile(r'(^|[/\\])\.[^./\\]')
REASON = 300  # characters


def data_config_of(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """timm's data config, with a mean and standard deviation for each channel of the input.

    timm leaves those of three colours in the pretrained_cfg of a network with other channels, which get their mean.

    Example:
        >>> data_config_of({'input_size': (1, 32, 32), 'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.2, 0.2)})['mean']
        (0.5,)
    """
    config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    channels = config['input_size'][0]
    for name in ('mean', 'std'):
        values = config[name]
        if len(values) != channels:
            config[name] = (sum(values) / len(values),) * channels
    return config


def image_mode(channels: int) -> str:
    """PIL's mode of the images of a network.

    Raises:
        SbsError: Pictures do not have so many channels.
    """
    if channels not in MODES:
        raise SbsError(f'The network takes images of {channels} channels, but pictures have 1 or 3; --data-free draws '
                       f'such as it takes.')
    return MODES[channels]


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """A picture as 8-bit greyscale ('L') or colours ('RGB'), converted as PIL does.

    PIL cuts off all that is above 255 where grey has more than 8 bits; here the whole range is scaled.

    Raises:
        ValueError: Nothing says which of its values are black and white.
        OSError: The file is damaged.
    """
    if image.mode == 'F':
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f'its floating-point values are from {values.min():g} to {values.max():g}, but must be '
                             f'from 0 to 1')
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    elif image.mode.startswith('I'):
        values = np.asarray(image)
        unsure = 0x100 if (image.mode, image.format) == ('I', 'TIFF') else 0  # 32 bits, whose range nothing tells
        if values.min() < 0 or not unsure <= values.max() <= 0xFFFF:
            raise ValueError(f'its values are from {values.min()} to {values.max()}, but must have 16 bits')
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert(mode)


def drop_hidden(reader: Any, class_map: bool) -> list[str]:
    """Drop hidden files, and files of hidden folders, from what a reader of timm or torchvision has listed.

    Args:
        reader: Its ``samples`` begin with a path or a member of a tar file. Without them, nothing is dropped.
        class_map: Whether classes are given. If not, those that hold nothing but hidden files are dropped as well.

    Returns:
        Names of the dropped files.
    """
    samples, root = getattr(reader, 'samples', ()), str(getattr(reader, 'root', ''))
    names = [str(getattr(sample[0], 'name', sample[0])).removeprefix(root).lstrip('/\\') for sample in samples]
    shown = [not HIDDEN.search(name) for name in names]
    if all(shown):
        return []
    for field in ('samples', 'targets'):
        values = getattr(reader, field, None)
        if values is not None:
            setattr(reader, field, [value for value, keep in zip(values, shown) if keep])
    classes = getattr(reader, 'class_to_idx', None)
    if classes and not class_map:
        number = {old: new for new, old in enumerate(sorted({label for _, label in reader.samples}))}
        reader.class_to_idx = {name: number[label] for name, label in classes.items() if label in number}
        reader.samples = [(path, number[label]) for path, label in reader.samples]
    return [name for name, keep in zip(names, shown) if not keep]


class _Files(Dataset[tuple[Image.Image, int]]):
    """One data set of timm or torchvision, whose pictures may not be decoded yet."""

    def __init__(self, dataset: Any) -> None:
        self.reader = getattr(dataset, 'reader', dataset)  # timm's own retry would hide what cannot be read
        if hasattr(self.reader, 'loader'):
            self.reader.loader = Image.open  # torchvision's converts to RGB

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        found, label, *_ = self.reader[index]
        image = found if isinstance(found, Image.Image) else Image.open(found)
        return image, -1 if label is None else label

    def name(self, index: int) -> str:
        if hasattr(self.reader, 'filename'):
            return str(self.reader.filename(index, absolute=True) or index)
        samples = getattr(self.reader, 'samples', None)
        return str(samples[index][0] if samples else index)


class Pictures(Dataset[Sample]):
    """Pictures of one or several data sets, in the mode of a network.

    What cannot be read is replaced by the next picture that can, the same one at every look and in every process.

    Attributes:
        transform: What each picture goes through: PIL image -> [C, H, W].
        notes: What is to be told when they are opened.
    """
    transform: Transform

    def __init__(self, datasets: Sequence[Any], channels: int, notes: Sequence[str] = ()) -> None:
        """
        Args:
            datasets: Of timm or torchvision, without a transform; or of this class.
            channels: Of the network.
            notes: What is to be told beside those of ``datasets``.

        Raises:
            SbsError: Pictures do not have so many channels.
        """
        self._mode = image_mode(channels)
        self.files: list[_Files] = []
        self.notes = list(notes)
        for dataset in datasets:
            self.files += dataset.files if isinstance(dataset, Pictures) else [_Files(dataset)]
            self.notes += dataset.notes if isinstance(dataset, Pictures) else []
        self._all: ConcatDataset[tuple[Image.Image, int]] = ConcatDataset(self.files)
        self._places: Sequence[int] = range(len(self._all))
        self._unreadable = torch.zeros(len(self._all), dtype=torch.uint8).share_memory_()  # with workers

    @property
    def reader(self) -> Any:
        """timm's reader of the first data set, or torchvision's data set itself."""
        return self.files[0].reader

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f'There is no picture {index} of {len(self)}.')
        for number in range(index, index + len(self)):
            found = self._read(self._places[number % len(self)])
            if found:
                return self.transform(found[0]), found[1]
        raise SbsError(f'None of {len(self)} pictures can be read. {describe_skipped([self])}')

    def part(self, indices: Sequence[int]) -> 'Pictures':
        """Some of the pictures, which are replaced by each other alone."""
        part = copy.copy(self)
        part._places = [self._places[index] for index in indices]
        return part

    def look(self, which: str) -> None:
        """Look at some of the pictures, all over the data set, and note what is odd.

        Raises:
            SbsError: Most of them cannot be read; or all are of one colour, or equal.
        """
        places = [round(place) for place in np.linspace(0, len(self._all) - 1, min(LOOKED_AT, len(self._all)))]
        found = [_looks(read[0]) for place in places if (read := self._read(place))]
        if 2 * len(found) < len(places):
            raise SbsError(f'Of {len(places)} pictures in {which} that were looked at, {len(places) - len(found)} '
                           f'cannot be read. {describe_skipped([self])}')
        blank, equal = sum(is_blank for is_blank, _ in found), len(found) - len(set(found))
        for count, kinds, what in ((blank, 0, 'of one colour'), (equal, 1, 'equal to others')):
            told = f'of {len(found)} pictures in {which} that were looked at'
            if len(found) > 1 and count == len(found) - kinds:
                raise SbsError(f'All {told} are {what}. Check how they were made.')
            if count > MANY * len(found):
                self.notes.append(f'{count} {told} are {what}.')

    def skipped(self) -> list[tuple[str, int]]:
        """Names of the files that could not be read so far, by any worker of this process, and their places."""
        return [(self._name(place), place) for place in self._unreadable.nonzero().flatten().tolist()]

    def reason(self, place: int) -> str:
        """Why the file at a place cannot be read."""
        try:
            self._open(place)
        except UnidentifiedImageError:
            return 'it is no image that PIL knows'
        except Exception as e:
            return short_reason(e, REASON) or type(e).__name__
        return 'it could be read later'

    def _read(self, place: int) -> tuple[Image.Image, int] | None:
        """A picture and its label; None, and the file is skipped from now on, where it cannot be read."""
        if self._unreadable[place]:
            return None
        try:
            return self._open(place)
        except Exception:  # there is hardly an error that a damaged file does not raise somewhere in PIL
            self._unreadable[place] = 1
            return None

    def _open(self, place: int) -> tuple[Image.Image, int]:
        image, label = self._all[place]
        return in_mode(image, self._mode), label

    def _name(self, place: int) -> str:
        for files in self.files:
            if place < len(files):
                return files.name(place)
            place -= len(files)
        raise IndexError(place)


def _looks(image: Image.Image) -> tuple[bool, int]:
    """Whether an image is of one colour, and a number that equal ones share."""
    return len(image.getcolors(1) or ()) == 1, hash((image.size, image.tobytes()))


class PictureStream(IterableImageDataset):
    """timm's stream of pictures, in the mode of a network. Those that cannot be read are left out."""

    def __init__(self, stream: Any, channels: int) -> None:
        super().__init__(None, reader=stream.reader)
        self._mode = image_mode(channels)
        self._count = mp.Value(ctypes.c_long)
        self._reason = mp.Array(ctypes.c_char, 4 * REASON)
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Sample]:
        for image, label in self.reader:
            try:
                image = in_mode(image, self._mode)
            except Exception as e:
                with self._count.get_lock():
                    self._count.value += 1
                    self._reason.value = self._reason.value or short_reason(e, REASON).encode()
                continue
            yield self.transform(image), label

    def skipped(self) -> list[tuple[str, int]]:
        """As of :class:`Pictures`: a stream has numbers for names, which begin anew in each pass."""
        return [(f'number {number + 1}', number) for number in range(self._count.value)]

    def reason(self, place: int) -> str:
        """Why the first of them could not be read."""
        return self._reason.value.decode()


def pictures_of(batches: Any) -> Pictures | PictureStream | None:
    """What a loader, or a data set that is made from another, reads; None where it is something else."""
    while batches is not None and not isinstance(batches, (Pictures, PictureStream)):
        batches = getattr(batches, 'dataset', None)
    return batches


def describe_skipped(batches: Iterable[Any], gather: Callable[[list[Any]], list[Any]] = list) -> str | None:
    """Which files could not be read, as one sentence; None if all could.

    Args:
        batches: Loaders or data sets. A file that several have tried counts once.
        gather: Joins lists of all processes, each of which has to call this.
    """
    found = [pictures for pictures in map(pictures_of, batches) if pictures is not None]
    skipped = [(name, number, place) for number, p in enumerate(found) for name, place in p.skipped()]
    skipped = sorted({*gather(skipped)})
    if not skipped:
        return None
    (name, number, place), count = skipped[0], len({name for name, _, _ in skipped})
    files = f'{count:,} files were skipped, the first of them' if count > 1 else '1 file was skipped:'
    return f"{files} '{name}', because {found[number].reason(place)}."
