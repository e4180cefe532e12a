"""timm's base model around a state dict: as timm builds it, and described by where its weights came from."""
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from timm_sbs.artifact.files import CONFIG_NAME
from timm_sbs.common.errors import ArtifactError, ConfigError

__all__ = ['SOURCES', 'build_around', 'describe', 'known_cfg', 'without_sources']

SOURCES = ('source', 'url', 'file', 'hf_hub_id', 'hf_hub_filename')  # fields of a PretrainedCfg


class _NotCopied(Tensor):
    """A weight on its way into the model: timm makes deep copies of the description that the weights come with."""

    # As in nn.Parameter: results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self


def build_around(
        base: str,
        state_dict: Mapping[str, Tensor],
        cfg: Mapping[str, Any],
        sources: Mapping[str, Any],
        cache_dir: str | Path | None = None,
        **kwargs: Any,
) -> nn.Module:
    """Let timm build a base model and load a state dict, adapting stem and classifier to ``in_chans`` and
    ``num_classes``.

    Args:
        base: timm's name of the architecture.
        state_dict: Complete, at the classes and channels that ``cfg`` tells.
        cfg: timm's description of the weights, without sources.
        sources: Where the weights came from, for the model's own description.
        cache_dir: As in timm.
        **kwargs: Arguments of the base model and of timm.create_model, such as features_only.

    Raises:
        ConfigError: The state dict holds something that is no tensor.
    """
    if not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ConfigError('The state_dict in pretrained_cfg holds something that is no tensor.')
    weights = {name: tensor.as_subclass(_NotCopied) for name, tensor in state_dict.items()}
    model = timm.create_model(
        base, pretrained=True, pretrained_cfg={**cfg, 'state_dict': weights}, cache_dir=cache_dir, **kwargs)
    return describe(model, sources)


def describe(model: nn.Module, sources: Mapping[str, Any]) -> nn.Module:
    """Take the state dict out of every module's pretrained_cfg, and say where the weights came from instead."""
    for module in model.modules():
        for name in ('pretrained_cfg', 'default_cfg'):
            described = module.__dict__.get(name)
            if isinstance(described, dict):
                setattr(module, name, {**{k: v for k, v in described.items() if k != 'state_dict'}, **sources})
    return model


def known_cfg(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """timm's description of the original weights as an artifact has it, without sources.

    Raises:
        ArtifactError: It has a field that this timm does not know.
    """
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    unknown = sorted(set(pretrained_cfg) - known)
    if unknown:
        raise ArtifactError(f"{CONFIG_NAME} of the predictor has an unknown pretrained_cfg field {unknown[0][:80]!r}.")
    return without_sources(PretrainedCfg(**pretrained_cfg))


def without_sources(cfg: PretrainedCfg) -> dict[str, Any]:
    """A description that no weights follow from."""
    cleared: dict[str, Any] = dict.fromkeys(SOURCES)
    return dataclasses.replace(cfg, state_dict=None, custom_load=False, **cleared).to_dict()
