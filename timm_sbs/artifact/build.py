"""timm's base model around a state dict: as timm builds it, and described by where its weights came from."""
from collections.abc import Container, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from timm_sbs.common.errors import ArtifactError, ConfigError, SbsError, short_reason
from timm_sbs.predictor.base_model import SkipRandomInit, as_tuples
from timm_sbs.predictor.pretrained_cfg import checked_cfg

__all__ = ['build_around', 'check_args']

# Arguments that an artifact itself gives when its model is built.
_OWN_ARGS = ('pretrained', 'pretrained_cfg', 'model_name', 'base', 'state_dict', 'cfg', 'sources', 'base_args')
# Arguments with which timm leaves what is not in the state dict as it was drawn.
_PARTIAL = {'features_only', 'pretrained_strict'}


class _NotCopied(Tensor):
    """A weight on its way into the model: timm makes deep copies of the description that the weights come with."""

    # As in nn.Parameter: results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self


def build_around(
        base: str,
        state_dict: Mapping[str, Tensor] | None,
        cfg: Mapping[str, Any],
        sources: Mapping[str, Any],
        cache_dir: str | Path | None = None,
        pretrained: bool = True,
        base_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
) -> nn.Module:
    """Let timm build a base model and load its weights, adapting stem and classifier to ``in_chans`` and
    ``num_classes``.

    Args:
        state_dict: Complete, at the classes and channels that ``cfg`` says; None: timm looks where ``sources`` say.
        cfg: timm's description of the weights, of which only what is known is passed on.
        sources: Where timm finds the weights, for the model's own description.
        base_args: The artifact's arguments of the base model, which timm is to remember; None: these are ordinary
            weights.
        **kwargs: The caller's, which go before these, and those of timm.create_model, such as features_only.

    Raises:
        SbsError: The state dict holds something that is not a tensor, a field of ``cfg`` is not what timm expects, or
            timm cannot build the model of an artifact with these arguments.
    """
    passed = {**checked_cfg(cfg), **sources, 'architecture': base}
    own = {'num_classes': passed.get('num_classes'), 'in_chans': (passed.get('input_size') or (3,))[0]}
    complete = pretrained and state_dict is not None and not _PARTIAL & kwargs.keys() and all(
        kwargs.get(name) in (None, value) for name, value in own.items())
    if state_dict is not None:
        if not all(isinstance(value, Tensor) for value in state_dict.values()):
            raise ConfigError('The state_dict in pretrained_cfg holds something that is not a tensor.')
        passed['state_dict'] = {name: tensor.as_subclass(_NotCopied) for name, tensor in state_dict.items()}
    if base_args:
        given = {name: as_tuples(kwargs.pop(name, value)) for name, value in base_args.items()}
        kwargs = {**given, **kwargs, 'pretrained_model_args': base_args}
    try:
        with SkipRandomInit() if complete else nullcontext():
            model = timm.create_model(base, pretrained=pretrained, pretrained_cfg=passed, cache_dir=cache_dir, **kwargs)
    except SbsError:
        raise
    except Exception as e:  # whatever timm raises
        if base_args is None:
            raise
        raise ArtifactError(f"timm cannot build '{base}' with the artifact's weights: {short_reason(e)}") from None
    for module in model.modules():
        for name in ('pretrained_cfg', 'default_cfg'):
            (module.__dict__.get(name) or {}).pop('state_dict', None)
    return model


def check_args(base: str, names: Container[str]) -> None:
    """Raises ConfigError where a caller gives an argument that is the artifact's own."""
    if given := [name for name in _OWN_ARGS if name in names]:
        raise ConfigError(f"create_model of an artifact takes no '{given[0]}': its base model is '{base}', and the "
                          'weights are always generated.')
