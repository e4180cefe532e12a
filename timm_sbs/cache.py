"""Results that are kept between runs, in files named after the content that they follow from.

They lie beside the Hub's own cache: in ``timm_sbs`` of huggingface_hub's ``HF_HOME``, or where the environment variable
``TIMM_SBS_CACHE`` says; ``TIMM_SBS_CACHE=off`` keeps nothing. A cache that cannot be read or written costs time, and
does no other harm.
"""
import hashlib
import os
from pathlib import Path
from typing import Dict, Iterable, Optional, Union

import safetensors.torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from torch import Tensor

from timm_sbs.files import replace_files

__all__ = ['cache_folder', 'content_key', 'load_cached', 'store_cached']

VARIABLE = 'TIMM_SBS_CACHE'
MOST_BYTES = 2_000_000_000  # of one kind of results; those that were not used for the longest time go first
SUFFIX = '.safetensors'


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
    """What :func:`store_cached` has kept under this key, or None."""
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / kind / f'{key}{SUFFIX}'
    try:
        tensors = safetensors.torch.load(path.read_bytes())
        os.utime(path)
    except (OSError, SafetensorError):
        return None
    return tensors


def store_cached(kind: str, key: str, tensors: Dict[str, Tensor]) -> None:
    """Keep tensors under a key, and drop the oldest of their kind where there are too many."""
    folder = cache_folder()
    if folder is None:
        return
    folder = folder / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_files({folder / f'{key}{SUFFIX}': safetensors.torch.save(tensors)})
        _drop_oldest(folder)
    except OSError:
        pass


def _drop_oldest(folder: Path) -> None:
    files = [(path, path.stat()) for path in folder.glob(f'*{SUFFIX}')]
    total = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size
