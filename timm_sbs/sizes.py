"""Bytes of an artifact's files, known before anything is trained."""
import json
import math
from dataclasses import dataclass
from typing import Any, Mapping, Tuple

import torch
from torch import Tensor

from timm_sbs.artifact import config_text, expected_layout
from timm_sbs.config import SbsConfig
from timm_sbs.predictor import Predictor
from timm_sbs.targets import ConvSpec

__all__ = ['ArtifactSizes', 'artifact_sizes']

RESULTS_BYTES = 1024  # allowed for in config.json, for results that are not known yet
_ITEM_BYTES = {'F64': 8, 'I64': 8, 'F32': 4, 'I32': 4, 'F16': 2, 'BF16': 2, 'I16': 2, 'I8': 1, 'U8': 1, 'BOOL': 1}


@dataclass(frozen=True)
class ArtifactSizes:
    """Bytes of the parts of an artifact's two files."""
    predictor: int
    ordering: int
    kept: int
    frequencies: int
    header: int  # names, shapes and places of the tensors
    config: int  # config.json

    @property
    def total(self) -> int:
        return self.predictor + self.ordering + self.kept + self.frequencies + self.header + self.config


def artifact_sizes(
        config: SbsConfig,
        pretrained_cfg: Mapping[str, Any],
        specs: Tuple[ConvSpec, ...],
        base_state: Mapping[str, Tensor],
) -> ArtifactSizes:
    """Sizes of the artifact that a fit with this configuration writes. All but ``config`` are exact.

    Args:
        config: Configuration of the predictor.
        pretrained_cfg: timm's description of the original.
        specs: The generated weights.
        base_state: The base model's state dict, on the meta device.
    """
    with torch.device('meta'):
        predictor = Predictor(config.feature_width, [spec.token_size for spec in specs], config.predictor)
    layout = expected_layout(config, tuple(specs), predictor, base_state)
    sizes = {name: math.prod(shape) * _ITEM_BYTES[code] for name, (shape, code) in layout.items()}
    return ArtifactSizes(
        predictor=sum(size for name, size in sizes.items() if name.startswith('predictor.')),
        ordering=sizes['ordering'],
        kept=sum(size for name, size in sizes.items() if name.startswith('kept.')),
        frequencies=sizes['frequencies'],
        header=_header_bytes(layout, sizes),
        config=len(config_text(config, pretrained_cfg).encode()) + RESULTS_BYTES,
    )


def _header_bytes(layout: Mapping[str, Tuple[Tuple[int, ...], str]], sizes: Mapping[str, int]) -> int:
    """Length of a safetensors header: widest types first, then by name, padded to 8 bytes, after 8 bytes of length."""
    order = sorted(layout, key=lambda name: (-_ITEM_BYTES[layout[name][1]], name))
    header, offset = {}, 0
    for name in order:
        shape, code = layout[name]
        header[name] = {'dtype': code, 'shape': list(shape), 'data_offsets': [offset, offset + sizes[name]]}
        offset += sizes[name]
    return 8 + math.ceil(len(json.dumps(header, separators=(',', ':')).encode()) / 8) * 8
