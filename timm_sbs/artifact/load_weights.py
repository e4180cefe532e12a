"""The weights of an artifact: generated when they are asked for the first time, and from the cache later on."""
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from timm_sbs.artifact.files import ArtifactFiles, consistently
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.cache import cache_folder, cached_file, content_key, load_cached, store_cached
from timm_sbs.common.config import ArtifactConfig

__all__ = ['Weights', 'load_weights', 'with_own_memory']

KIND = 'weights'
VERSION = 2  # of how weights follow from an artifact; to be raised when that changes them


@dataclass(frozen=True, eq=False)
class Weights:
    """All weights of a base model.

    Attributes:
        config: The sbs block of the artifact's config.json.
        pretrained_cfg: timm's description of the original weights.
        state_dict: The base model's, at the original's classes and channels, float32.
        file: The same in the cache, a checkpoint as timm reads it, or None where nothing is kept.
    """
    config: ArtifactConfig
    pretrained_cfg: dict[str, Any]
    state_dict: dict[str, Tensor]
    file: Path | None


def load_weights(folder: str | Path, device: torch.device | None = None) -> Weights:
    """All weights of an artifact's base model, from the cache if it has those of the very same files.

    Args:
        folder: Of the artifact.
        device: Where to generate; default: the CPU. Cached weights are on the CPU.

    Raises:
        SbsError: The artifact is missing or damaged, or does not fit the base model.
    """
    return consistently(lambda files: _weights(files, device), folder)


def _weights(files: ArtifactFiles, device: torch.device | None) -> Weights:
    key = _key(files)
    state_dict = load_cached(KIND, key) if key else None
    if state_dict is None:
        artifact = load_artifact(files)
        if device is not None and device.type != 'meta':
            artifact.generator.to(device)
        state_dict = artifact.state_dict()
        if key:
            store_cached(KIND, key, with_own_memory(state_dict), f'{artifact.base.name} of {files.folder}')
    file = cached_file(KIND, key) if key else None
    return Weights(*files.parsed(), state_dict, file if file and file.is_file() else None)


def _key(files: ArtifactFiles) -> str | None:
    """Name of an artifact's weights in the cache, or None if there is no cache, or the artifact cannot be read."""
    if cache_folder() is None:
        return None
    try:
        checksums = [hashlib.sha256(files.config).hexdigest(), files.weights_sha256]
    except OSError:
        return None
    return content_key([f'version {VERSION}, timm {timm.__version__}, float32', *checksums])


def with_own_memory(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights on the CPU; one that has several names is copied, since files hold each name's own."""
    seen = set()
    tensors = {}
    for name, tensor in state_dict.items():
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return {name: tensor.cpu() for name, tensor in tensors.items()}
