"""The original model: loading it, what an artifact remembers of it, and whose weights it is proved to have."""
import functools
import json
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
import torch
from timm.models import (
    PretrainedCfg,
    filter_pretrained_cfg,
    get_model_args,
    get_model_input_config,
    get_model_traits,
    split_model_name_tag,
)
from torch import nn

from timm_sbs.artifact.hub import offline_if_unreachable, unreachable
from timm_sbs.common.entries import ENTRIES
from timm_sbs.common.errors import SbsError, TargetError, did_you_mean, short_reason
from timm_sbs.predictor.base_model import BaseModel, canonical_args, named_state
from timm_sbs.predictor.pretrained_cfg import named_in_cfg, pretrained_cfg_of

__all__ = ['ASKED_ARGS', 'load_original', 'describe_original', 'proved_description']

# Attribute of a network that a run has built: arguments that its user asked for. timm leaves some out, as drop rates.
ASKED_ARGS = 'asked_args'

# Fields of timm's pretrained_cfg that an artifact does not have: they name the original, say where it is, or that its
# file has weights of more classes.
_NOT_KEPT = ('architecture', 'state_dict', 'custom_load', 'notes', 'label_offset')
# Fields of a pretrained_cfg that tell whose weights it describes, and not how they are used.
_CLAIMS = ('tag', 'license', 'origin_url', 'paper_name', 'paper_ids', 'description', 'notes', 'source', 'url', 'file',
           'hf_hub_id', 'hf_hub_filename')


def load_original(
        name: str, checkpoint: str | None = None, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """Create the original model with its trained weights, those of timm or of a checkpoint file, in eval mode.

    ``name`` is timm's, with or without a tag, or a source such as 'hf-hub:user/name'.

    Raises:
        TargetError: timm has no such model.
        SbsError: The weights could not be loaded.
    """
    checkpoint, args = expanduser(checkpoint or ''), dict(model_args or {})
    if name.startswith('local-dir:'):
        name = f"local-dir:{expanduser(name.removeprefix('local-dir:'))}"
    if ':' not in name and not timm.is_model(split_model_name_tag(name)[0]):
        raise TargetError(f"timm {timm.__version__} has no model '{name}'.{did_you_mean(name, timm.list_models())} "
                          f'List them with timm.list_models().')
    if checkpoint and not Path(checkpoint).is_file():
        raise SbsError(f"The checkpoint '{checkpoint}' is not a file.")
    if checkpoint:
        model = _created(name, f"checkpoint '{checkpoint}'", checkpoint_path=checkpoint, **args)
    else:
        model = _pretrained(name, args)
    return model.requires_grad_(False).eval()


def _pretrained(name: str, args: Mapping[str, Any], download: bool = True) -> nn.Module:
    """With timm's weights from a cache, the Hub or an url; without a wait for hosts that do not answer."""
    source, wanted = name.rpartition(':')[0], 'its pretrained weights'
    try:
        cfg = PretrainedCfg() if source else timm.get_pretrained_cfg(name) or PretrainedCfg()
    except RuntimeError as e:  # of an unknown tag
        raise TargetError(f"timm {timm.__version__} has no weights '{name}'. List them with "
                          f"timm.list_pretrained('{split_model_name_tag(name)[0]}*').") from e
    if source.startswith('hf') or (cfg.hf_hub_id and cfg.architecture not in ENTRIES):
        with offline_if_unreachable(download) as why:
            try:
                return _created(name, wanted, pretrained=True, **args)
            except SbsError as e:
                if not why:
                    raise
                raise _out_of_reach(name, 'the Hub', why) from e
    url, file = (cfg.url, Path(urlparse(cfg.url).path).name) if isinstance(cfg.url, str) else cfg.url or ('', '')
    is_cached = Path(torch.hub.get_dir(), 'checkpoints', file).is_file()
    if url and not is_cached and (why := unreachable(url) if download else 'it is not asked'):
        raise _out_of_reach(name, urlparse(url).netloc, why)
    return _created(name, wanted, pretrained=True, **args)


def _out_of_reach(name: str, host: str, why: str) -> SbsError:
    return SbsError(f"The pretrained weights of '{name}' are not in the local cache and {host} cannot be reached "
                    f'({why}). Connect once, or name a file of the weights.')


def _created(name: str, source: str, **kwargs: Any) -> nn.Module:
    try:
        return timm.create_model(name, **kwargs)
    except SbsError:
        raise
    except Exception as e:  # whatever timm and the Hub raise
        raise SbsError(f"Cannot create '{name}' from {source}: {short_reason(e)}") from e


def describe_original(model: nn.Module, model_args: Mapping[str, Any] | None = None) -> BaseModel:
    """What an artifact stores of the original model: its architecture, the arguments that it was created with, as timm
    remembers them, and timm's pretrained_cfg, without sources and with the model's own classes and input size.

    ``model_args`` are arguments that timm does not remember, or other values for those that it does.

    Raises:
        TargetError: timm has not made the model, or an artifact cannot hold an argument.
    """
    original_cfg = pretrained_cfg_of(model)
    name = original_cfg.get('architecture')
    if not isinstance(name, str) or not timm.is_model(name):
        raise TargetError(f"The model's architecture is '{name}', which timm {timm.__version__} cannot build.")
    pretrained_cfg = filter_pretrained_cfg(dict(original_cfg), remove_source=True)
    for field in _NOT_KEPT:
        pretrained_cfg.pop(field, None)
    state = named_state(model)
    pretrained_cfg['num_classes'] = get_model_traits(model).get('num_classes', pretrained_cfg.get('num_classes', 0))
    for field in ('first_conv', 'classifier'):  # an argument may have put another module in its place
        names = [module for module in named_in_cfg(pretrained_cfg, field) if f'{module}.weight' in state]
        if len(names) < len(named_in_cfg(pretrained_cfg, field)):
            pretrained_cfg[field] = names
    pretrained_cfg['input_size'] = list(get_model_input_config(model)['input_size'])
    try:
        json.dumps(pretrained_cfg, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise TargetError(f"The model's pretrained_cfg cannot be written as JSON: {e}.") from None
    asked = {**getattr(model, ASKED_ARGS, {}), **(model_args or {})}
    args = _own_args(model, asked, name, canonical_args({}, pretrained_cfg))
    canonical_args(args, pretrained_cfg)
    return BaseModel(name, args, pretrained_cfg)


def _own_args(
        model: nn.Module, given: Mapping[str, Any], name: str, canonical: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that tell a model from what timm builds by its name, classes and channels alone."""
    if getattr(model, '_model_args', {}).get('features_only'):
        raise TargetError('The model returns feature maps alone (features_only=True). Fit the whole network, and pass '
                          'features_only=True when you create it from the artifact.')
    try:
        args = get_model_args(model, dict(given))
    except ValueError as e:
        raise TargetError(f'model_kwargs do not fit the model: {short_reason(e)}') from e
    usual = _usual_args(name, *canonical.values())
    return {key: value for key, value in args.items()
            if key not in canonical and (key in given or key not in usual or usual[key] != value)}


@functools.lru_cache(maxsize=64)
def _usual_args(name: str, num_classes: int, in_chans: int) -> dict[str, Any]:
    """What timm says of a model that was created without arguments of its own."""
    try:
        with torch.device('meta'):
            return get_model_args(timm.create_model(name, num_classes=num_classes, in_chans=in_chans))
    except Exception:  # such as constructors that compute with their tensors: nothing is usual then
        return {}


def proved_description(
        model: nn.Module,
        loaded_as: str | None = None,
        license: str | None = None,
        base_model: str | None = None,
) -> dict[str, Any]:
    """A model's pretrained_cfg without what is not known of its weights: timm gives each model that of its pretrained
    weights, whether these were loaded, trained further, or never there.

    Their origin is known where they were just loaded by a name that timm or the Hub has, and where they equal those of
    an entry of timm's registry, as far as these are in the local cache: nothing is downloaded for it.

    Args:
        model: As timm has made it; trained further or not, in any precision.
        loaded_as: Name by which its pretrained weights were just loaded, if they were. A local folder's own
            description proves nothing.
        license: Of the weights, by the user's word, as the Hub names licences: 'cc-by-nc-4.0'.
        base_model: Repository of the weights on the Hub, by the user's word.

    Example:
        >>> proved_description(timm.create_model('resnet18'), license='mit').get('hf_hub_id')  # random weights
    """
    described = dict(pretrained_cfg_of(model))
    loaded = loaded_as is not None and not loaded_as.startswith('local-dir:')
    if not (loaded or _are_registered(model, described)):
        described = {name: value for name, value in described.items() if name not in _CLAIMS}
    told = {'license': license, 'hf_hub_id': base_model}
    return {**described, **{name: value for name, value in told.items() if value}}


def _are_registered(model: nn.Module, described: dict[str, Any]) -> bool:
    """Whether a model's weights are those of the entry that its description names."""
    name = (described.get('hf_hub_id') or '').removeprefix('timm-sbs/')
    if name not in ENTRIES:
        name = '.'.join(filter(None, [described.get('architecture'), described.get('tag')]))
    if not timm.is_model_pretrained(name):
        return False
    base = describe_original(model)
    try:
        expected = _pretrained(name, canonical_args(base.args, base.pretrained_cfg), download=False).state_dict()
    except SbsError:  # the weights are not in the local cache, or another network's
        return False
    state = model.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name].cpu(), tensor.to(state[name].dtype))
        for name, tensor in expected.items() if tensor.is_floating_point())
