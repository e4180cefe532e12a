"""Whose weights a model has, as far as that is proved. A timm model is described as the weights that timm has for it,
whether these were loaded, trained further, or never there."""
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import PretrainedCfg
from torch import nn

from timm_sbs.artifact.original import describe_original, url_and_file
from timm_sbs.common.entries import ENTRIES
from timm_sbs.predictor.base_model import canonical_args, pretrained_cfg_of

__all__ = ['proved_description']

# Fields of a pretrained_cfg that tell whose weights it describes, and not how they are used.
_CLAIMS = ('tag', 'license', 'origin_url', 'paper_name', 'paper_ids', 'description', 'notes', 'source', 'url', 'file',
           'hf_hub_id', 'hf_hub_filename')


def proved_description(
        model: nn.Module,
        loaded_as: str | None = None,
        license: str | None = None,
        base_model: str | None = None,
) -> dict[str, Any]:
    """A model's pretrained_cfg without what is not known of its weights.

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
    registered = timm.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None
    file = _local_file(registered) if registered and name not in ENTRIES else None
    if file is None and name not in ENTRIES:
        return False
    base = describe_original(model)
    try:
        expected = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={'file': file} if file else None,
            **canonical_args(base.args, base.pretrained_cfg)).state_dict()
    except Exception:  # whatever timm raises where a file is not what the entry describes
        return False
    state = model.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name].cpu(), tensor.to(state[name].dtype))
        for name, tensor in expected.items() if tensor.is_floating_point())


def _local_file(registered: PretrainedCfg) -> str | None:
    """The file of an entry's weights, where timm would download it to. Nothing is downloaded."""
    if registered.file:
        return str(registered.file)
    repository, _, revision = (registered.hf_hub_id or '').partition('@')
    for name in [registered.hf_hub_filename or 'model.safetensors', 'pytorch_model.bin'] if repository else ():
        if isinstance(path := try_to_load_from_cache(repository, name, revision=revision or None), str):
            return path
    url, file = url_and_file(registered)
    return str(file) if url and file.is_file() else None
