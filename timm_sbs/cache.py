"""Results that are kept between runs, in files named after the content that they follow from.

They lie beside the Hub's own cache: in ``timm_sbs`` of huggingface_hub's ``HF_HOME``, or where the environment variable
``TIMM_SBS_CACHE`` says; ``TIMM_SBS_CACHE=off`` keeps nothing. A cache that cannot be read or written costs time, and
does no other harm.
"""
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple, Union

import safetensors.torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timm_sbs.files import replacing

__all__ = ['CacheEntry', 'cache_folder', 'content_key', 'load_cached', 'store_cached', 'cache_entries', 'clear_cache']

VARIABLE = 'TIMM_SBS_CACHE'
MOST_BYTES = 2_000_000_000  # of one kind of results; those that were not used for the longest time go first
SUFFIX = '.safetensors'


@dataclass(frozen=True)
class CacheEntry:
    """A kept result."""
    kind: str
    path: Path
    size: int  # bytes
    used: float  # when it was last used, in seconds since 1970
    description: str


def cache_folder() -> Optional[Path]:
    """Folder of all cached results, or None where nothing is to be kept."""
    setting = os.environ.get(VARIABLE, '')
    if setting.lower() == 'off':
        return None
    return Path(setting).expanduser() if setting else Path(HF_HOME) / 'timm_sbs'


def content_key(parts: Iterable[Union[str, bytes, memoryview]]) -> str:
    """A name for what follows from these parts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f'{len(data)}:'.encode())
        digest.update(data)
    return digest.hexdigest()


def load_cached(kind: str, key: str) -> Optional[Dict[str, Tensor]]:
    """What :func:`store_cached` has kept under this key, mapped into memory, or None."""
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / kind / f'{key}{SUFFIX}'
    try:
        tensors = safetensors.torch.load_file(path)
        os.utime(path)
    except (OSError, SafetensorError):
        return None
    return tensors


def store_cached(kind: str, key: str, tensors: Dict[str, Tensor], description: str) -> None:
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
            safetensors.torch.save_file(tensors, path, {'description': description})
        _drop_oldest(kind)
    except (OSError, SafetensorError):
        pass


def cache_entries() -> List[CacheEntry]:
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
    """Drop all that is kept. Returns the bytes that this frees."""
    files = _files(kind)
    for path, _ in files:
        path.unlink(missing_ok=True)
    return sum(stat.st_size for _, stat in files)


def _files(kind: str) -> List[Tuple[Path, os.stat_result]]:
    """Files of a kind, what was used last first."""
    folder, files = cache_folder(), []
    for path in folder.glob(f'{kind}/*{SUFFIX}') if folder else ():
        try:
            files.append((path, path.stat()))
        except OSError:  # another process has dropped it
            pass
    return sorted(files, key=lambda file: -file[1].st_mtime)


def _drop_oldest(kind: str) -> None:
    total = 0
    for path, stat in _files(kind):
        total += stat.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
