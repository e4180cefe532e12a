"""The original model: loading it, and what an artifact has to remember of it."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import (
    filter_pretrained_cfg,
    get_model_input_config,
    get_model_traits,
    split_model_name_tag,
)
from torch import nn

from timm_sbs.common.errors import SbsError, TargetError, short_reason
from timm_sbs.predictor.base_model import BaseModel, canonical_args, pretrained_cfg_of

__all__ = ['load_original', 'describe_original']

# Fields of timm's pretrained_cfg that name places or names of the original, which are not the predictor's.
_NOT_KEPT = ('architecture', 'state_dict', 'custom_load', 'notes')


def load_original(
        name: str,
        checkpoint: str | None = None,
        model_args: Mapping[str, Any] | None = None,
        license: str | None = None,
) -> nn.Module:
    """Create the original model with its trained weights, in eval mode.

    Args:
        name: timm model name, with or without a tag, or a source such as 'hf-hub:user/name'.
        checkpoint: File with the weights; without it, timm's own pretrained weights are loaded.
        model_args: Further arguments of the architecture.
        license: Of the weights, as the Hub names licences ('cc-by-nc-4.0'). None is that of timm's weights, and for a
            checkpoint that nothing is known.

    Raises:
        TargetError: timm has no such model.
        SbsError: The weights cannot be loaded.
    """
    if ':' not in name and not timm.is_model(split_model_name_tag(name)[0]):
        raise TargetError(f"timm {timm.__version__} has no model '{name}'. List them with timm.list_models().")
    if checkpoint and not Path(checkpoint).is_file():
        raise SbsError(f"The checkpoint '{checkpoint}' is no file.")
    try:
        model = timm.create_model(
            name, pretrained=not checkpoint, checkpoint_path=checkpoint or None, **(model_args or {}))
    except SbsError:
        raise
    except Exception as e:
        source = f"checkpoint '{checkpoint}'" if checkpoint else 'its pretrained weights'
        reason = short_reason(e)
        raise SbsError(f"Cannot create '{name}' from {source}: {reason}") from e
    if checkpoint or license:
        # By setattr, for torch declares all attributes of a module to be tensors or modules.
        setattr(model, 'pretrained_cfg', {**pretrained_cfg_of(model), 'license': license})  # noqa: B010
    return model.requires_grad_(False).eval()


def describe_original(
        model: nn.Module,
        model_args: Mapping[str, Any] | None = None,
) -> BaseModel:
    """What an artifact stores of the original model: timm's pretrained_cfg is without sources, and has the model's own
    number of classes and channels."""
    args = dict(model_args or {})
    original_cfg = pretrained_cfg_of(model)
    pretrained_cfg = filter_pretrained_cfg(dict(original_cfg), remove_source=True)
    for field in _NOT_KEPT:
        pretrained_cfg.pop(field, None)
    for name in ('num_classes', 'in_chans'):  # read off the model, below
        args.pop(name, None)
    pretrained_cfg['num_classes'] = get_model_traits(model).get('num_classes', pretrained_cfg.get('num_classes', 0))
    pretrained_cfg['input_size'] = list(get_model_input_config(model)['input_size'])
    canonical_args(args, pretrained_cfg)
    return BaseModel(original_cfg['architecture'], args, pretrained_cfg)
