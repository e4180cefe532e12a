"""State dicts of artifacts that were loaded before, in huggingface_hub's folder of assets: decoding and generating the
weights takes several times as long as reading them. The files may be deleted at any time; each is as large as a model.
"""
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from torch import Tensor

from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME
from timm_sbs.common.files import replace_files
from timm_sbs.common.version import __version__

__all__ = ['cached_file', 'read_cached', 'write_cached']


def cached_file(folder: Path) -> Path | None:
    """Where the state dict of an artifact is kept: by the contents of its files, and by what they were read with. None
    if they, or the cache, cannot be read."""
    try:
        parts = [(folder / name).read_bytes() for name in (CONFIG_NAME, WEIGHTS_NAME)]
        cache = cached_assets_path('timm_sbs', 'weights')
    except (OSError, ValueError):
        return None
    digests = [hashlib.sha256(part).digest() for part in (__version__.encode(), torch.__version__.encode(), *parts)]
    return Path(cache, f"{hashlib.sha256(b''.join(digests)).hexdigest()}.safetensors")


def read_cached(file: Path | None) -> dict[str, Tensor] | None:
    """A state dict, or None if it is not there or damaged."""
    with suppress(OSError, SafetensorError):
        return safetensors.torch.load_file(file) if file else None
    return None


def write_cached(file: Path | None, state_dict: Mapping[str, Tensor]) -> None:
    """Keep a state dict, if that is possible."""
    if file:
        contents = {name: tensor.detach().clone() for name, tensor in state_dict.items()}  # a file has no shared memory
        with suppress(OSError):
            replace_files({file: safetensors.torch.save(contents)})
