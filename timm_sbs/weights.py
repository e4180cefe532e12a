"""The weights of an artifact: generated when they are asked for the first time, and from the cache later on."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Union

import timm
import torch
from torch import Tensor

from timm_sbs.artifact import CONFIG_NAME, WEIGHTS_NAME, load_artifact, read_config
from timm_sbs.cache import cache_folder, content_key, load_cached, store_cached
from timm_sbs.config import SbsConfig
from timm_sbs.files import file_sha256

__all__ = ['Weights', 'load_weights', 'with_own_memory']

KIND = 'weights'
VERSION = 1  # of how weights follow from an artifact; to be raised when that changes them


@dataclass(frozen=True)
class Weights:
    """All weights of a base model.

    Attributes:
        config: The sbs block of the artifact's config.json.
        pretrained_cfg: timm's description of the original weights.
        state_dict: The base model's, at the original's classes and channels, float32.
    """
    config: SbsConfig
    pretrained_cfg: Dict[str, Any]
    state_dict: Dict[str, Tensor]


def load_weights(folder: Union[str, Path], device: Optional[torch.device] = None) -> Weights:
    """All weights of an artifact's base model, from the cache if it has those of the very same files.

    Args:
        folder: Of the artifact.
        device: Where to generate; default: the CPU. Cached weights are on the CPU.

    Raises:
        SbsError: The artifact is missing or damaged, or does not fit the base model.
    """
    folder = Path(folder)
    key = _key(folder)
    cached = load_cached(KIND, key) if key else None
    if cached is not None:
        return Weights(*read_config(folder), cached)
    with torch.device('cpu'):  # whatever the default device is
        artifact = load_artifact(folder)
        if device is not None and device.type != 'meta':
            artifact.predictor.to(device)
        state_dict = artifact.state_dict()
        if key:
            store_cached(KIND, key, with_own_memory(state_dict), f'{artifact.config.base} of {folder}')
    return Weights(artifact.config, artifact.pretrained_cfg, state_dict)


def _key(folder: Path) -> Optional[str]:
    """Name of an artifact's weights in the cache, or None if there is no cache, or the artifact cannot be read."""
    if cache_folder() is None:
        return None
    try:
        checksums = [file_sha256(folder / name) for name in (CONFIG_NAME, WEIGHTS_NAME)]
    except OSError:
        return None
    return content_key([f'version {VERSION}, timm {timm.__version__}, float32', *checksums])


def with_own_memory(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Weights on the CPU; one that has several names is copied, since files hold each name's own."""
    seen = set()
    tensors = {}
    for name, tensor in state_dict.items():
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return {name: tensor.cpu() for name, tensor in tensors.items()}
