"""Results that are kept between runs, in files named after the content that they follow from.

They lie beside the Hub's own cache: in ``timm_sbs`` of huggingface_hub's ``HF_HOME``, or where the environment variable
``TIMM_SBS_CACHE`` says; ``TIMM_SBS_CACHE=off`` keeps nothing. A cache that cannot be read or written costs time, and
does no other harm: each file holds a checksum of all its other bytes, and one that is damaged counts as none.
"""
import contextlib
import hashlib
import mmap
import os
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timm_sbs.common.files import replacing

__all__ = [
    'CacheEntry', 'cache_folder', 'cached_file', 'content_key', 'load_cached', 'store_cached', 'cache_entries',
    'clear_cache',
]

VARIABLE = 'TIMM_SBS_CACHE'
MOST_BYTES = 2_000_000_000  # of one kind of results; those that were not used for the longest time go first
SUFFIX = '.safetensors'
DAY = 24 * 60 * 60  # seconds
CHECKSUM = 'checksum'  # in the metadata of a file
_UNKNOWN = b'crc32:........'  # stands where the checksum will be, and is summed instead of it
_File = tuple[Path, os.stat_result]


@dataclass(frozen=True)
class CacheEntry:
    """A kept result."""
    kind: str
    path: Path
    size: int  # bytes
    used: float  # when it was last used, in seconds since 1970
    description: str


def cache_folder() -> Path | None:
    """Folder of all cached results, or None where nothing is to be kept."""
    setting = os.environ.get(VARIABLE, '')
    if setting.lower() == 'off':
        return None
    return Path(setting).expanduser() if setting else Path(HF_HOME) / 'timm_sbs'


def content_key(parts: Iterable[str | bytes | memoryview]) -> str:
    """A name for what follows from these parts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f'{len(data)}:'.encode())
        digest.update(data)
    return digest.hexdigest()


def cached_file(kind: str, key: str) -> Path | None:
    """Where :func:`store_cached` keeps what is under this key, or None where nothing is to be kept."""
    folder = cache_folder()
    return folder / kind / f'{key}{SUFFIX}' if folder else None


def load_cached(kind: str, key: str) -> dict[str, Tensor] | None:
    """What :func:`store_cached` has kept under this key, mapped into memory, or None."""
    path = cached_file(kind, key)
    if path is None:
        return None
    try:
        if not _is_intact(path):
            return None
        tensors = safetensors.torch.load_file(path)
    except (OSError, ValueError, SafetensorError):
        return None
    with contextlib.suppress(OSError):  # a cache of another user, or on a disk that is read only
        os.utime(path)
    return tensors


def _is_intact(path: Path) -> bool:
    """Whether a file has the checksum that it says."""
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place, checksum = _sum(data)
        return data[place:place + len(checksum)] == checksum


def _write_checksum(path: Path) -> None:
    with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as data:
        place, checksum = _sum(data)
        data[place:place + len(checksum)] = checksum


def _sum(data: mmap.mmap) -> tuple[int, bytes]:
    """Where the checksum of a file is, and what it should be: CRC-32, the fastest of the standard library's.

    Raises:
        ValueError: There is no checksum.
    """
    key = b'"%s":"' % CHECKSUM.encode()
    found = data.find(key + _UNKNOWN[:6], 0, 8 + int.from_bytes(data[:8], 'little'))
    if found < 0:
        raise ValueError('no checksum')
    place = found + len(key)
    end = place + len(_UNKNOWN)
    with memoryview(data) as view, view[:place] as before, view[end:] as after:
        checksum = zlib.crc32(after, zlib.crc32(_UNKNOWN, zlib.crc32(before)))
    return place, b'crc32:%08x' % checksum


def store_cached(kind: str, key: str, tensors: dict[str, Tensor], description: str) -> None:
    """Keep tensors under a key, and drop the oldest of their kind where there are too many.

    Args:
        kind: Of result.
        key: See :func:`content_key`.
        tensors: Each with memory of its own.
        description: What they are, for those who look into the cache.
    """
    folder = cache_folder()
    if folder is None or sum(tensor.nbytes for tensor in tensors.values()) > MOST_BYTES:
        return
    folder = folder / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f'{key}{SUFFIX}') as path:
            safetensors.torch.save_file(tensors, path, {CHECKSUM: _UNKNOWN.decode(), 'description': description})
            _write_checksum(path)
        _drop_oldest(kind)
    except (OSError, SafetensorError):
        pass


def cache_entries() -> list[CacheEntry]:
    """All that is kept, what was used last first."""
    entries = []
    for path, stat in _files('*'):
        try:
            with safe_open(path, framework='pt') as file:
                description = (file.metadata() or {}).get('description', '')
        except OSError:  # another process has dropped it
            continue
        except SafetensorError:
            description = 'damaged'
        entries.append(CacheEntry(path.parent.name, path, stat.st_size, stat.st_mtime, description))
    return entries


def clear_cache(kind: str = '*') -> int:
    """Drop all that is kept and may be deleted. Returns the bytes that this frees."""
    return _delete(_files(kind)) + _delete(_abandoned(kind))


def _files(kind: str, pattern: str = f'*{SUFFIX}') -> list[_File]:
    """Files of a kind, what was used last first."""
    folder, files = cache_folder(), []
    for path in folder.glob(f'{kind}/{pattern}') if folder else ():
        with contextlib.suppress(OSError):  # another process has dropped it
            files.append((path, path.stat()))
    return sorted(files, key=lambda file: -file[1].st_mtime)


def _abandoned(kind: str) -> list[_File]:
    """Files under temporary names whose writers have been killed, as nobody writes for a day."""
    return [file for file in _files(kind, f'.*{SUFFIX}.*') if time.time() - file[1].st_mtime > DAY]


def _delete(files: Iterable[_File]) -> int:
    """Delete what may be deleted. Returns the bytes that this frees."""
    freed = 0
    for path, stat in files:
        with contextlib.suppress(OSError):  # another user's, or another process has dropped it
            path.unlink()
            freed += stat.st_size
    return freed


def _drop_oldest(kind: str) -> None:
    total, surplus = 0, []
    for path, stat in _files(kind):
        total += stat.st_size
        if total > MOST_BYTES:
            surplus.append((path, stat))
    _delete([*surplus, *_abandoned(kind)])
