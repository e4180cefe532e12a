"""How an ``sbs_*`` model is created: its artifact is found and read, and timm builds the base model around the weights.
"""
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from timm.models import PretrainedCfg, resolve_pretrained_cfg
from torch import Tensor, nn

from timm_sbs.artifact import hub
from timm_sbs.artifact.build import FIELDS, SOURCES, build_around
from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, read_config
from timm_sbs.artifact.folder import load_artifact, shipped_folder
from timm_sbs.common.errors import ArtifactError, ConfigError
from timm_sbs.common.files import replace_files
from timm_sbs.common.version import __version__
from timm_sbs.predictor.base_model import BaseModel

__all__ = ['create_generated']


def create_generated(
        variant: str,
        base: str | None,
        pretrained: bool,
        /,
        pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        pretrained_model_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
) -> nn.Module:
    """Create a base model, with generated weights if ``pretrained``.

    The weights are generated for the original's classes and channels, and handed to timm as a state dict, so that
    timm itself adapts stem and classifier to ``in_chans`` and ``num_classes``. The result is the base model as timm
    builds it, with the base's architecture in its ``pretrained_cfg``: timm saves it, and loads it again, as any other.

    Args:
        variant: Registered name of the entry.
        base: Architecture that the entry stands for; None for the one that the artifact names.
        pretrained_cfg: As timm passes it: None, a tag, or the pretrained_cfg of a config.json.
        pretrained_cfg_overlay: ``file`` names an artifact's folder, or an ordinary checkpoint of the base, as ``url``
            does; ``hf_hub_id`` a repository; other keys as in timm.
        pretrained_model_args: Arguments stored in a config.json, which timm has merged into ``kwargs`` already.
        **kwargs: Arguments of the base model and of timm's builder, such as features_only.

    Raises:
        SbsError: There is no artifact, it is damaged, or it belongs to another base.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    given, registered = _given(variant, pretrained_cfg)
    sources = _sources(overlay, given, registered)
    if unknown := set(overlay) - FIELDS:
        raise ConfigError(f"pretrained_cfg_overlay has '{min(unknown)}', which is not a field of timm's PretrainedCfg.")
    cfg = {**registered, **given, **overlay}
    folder = _find(variant, sources, cache_dir) if pretrained or base is None else None
    if folder is None and base is not None:
        return build_around(base, sources.pop('state_dict', None), cfg, sources, cache_dir, pretrained, **kwargs)
    if folder is None:
        raise ArtifactError(
            f"'{variant}' is not a network: its artifact says which one. Use timm.create_model('hf-hub:user/name', "
            f"pretrained=True) or 'local-dir:FOLDER', or pass pretrained_cfg_overlay=dict(file=FOLDER).")

    config, pretrained_cfg = read_config(folder)
    own = BaseModel(config.base, config.base_args, pretrained_cfg)
    if base not in (None, own.name):
        raise ArtifactError(
            f"The artifact has weights of '{own.name}', but '{variant}' is '{base}'. Load it with "
            f"timm.create_model('local-dir:FOLDER', pretrained=True).")
    if pretrained_model_args not in (None, own.args):  # timm would pass on whatever they say
        raise ConfigError(
            f"model_args in {CONFIG_NAME} are {str(pretrained_model_args)[:200]}, but the artifact is of '{own.name}' "
            f'with {str(own.args)[:200]}. Download or copy the folder again.')
    if not pretrained:
        own.state  # noqa: B018  (refuses what reading the weights would)
    weights = _weights(folder, 'file' not in sources) if pretrained else None  # a folder may change
    sources = {name: value for name, value in sources.items() if name == 'hf_hub_id'}  # timm cannot read artifacts
    return build_around(own.name, weights, {**own.pretrained_cfg, **given, **overlay}, sources, cache_dir, pretrained,
                        own.args, **kwargs)


def _weights(folder: Path, cached: bool) -> dict[str, Tensor]:
    """The state dict of an artifact, generated on the CPU, or read from huggingface_hub's folder of assets, which takes
    a fraction of the time. Files there are as large as models, and may be deleted."""
    file = _cached_file(folder) if cached else None
    if file:
        with suppress(OSError, SafetensorError):  # it is not there, or damaged
            return safetensors.torch.load_file(file)
    with torch.device('cpu'):
        state_dict = load_artifact(folder).state_dict()
    if file:
        contents = {name: tensor.clone() for name, tensor in state_dict.items()}  # a file has no shared memory
        with suppress(OSError):  # the disk is full
            replace_files({file: safetensors.torch.save(contents)})
    return state_dict


def _cached_file(folder: Path) -> Path | None:
    """Where the state dict of an artifact is kept: by the contents of its files, and by what they were read with. None
    if they, or the cache, cannot be read."""
    try:
        parts = [(folder / name).read_bytes() for name in (CONFIG_NAME, WEIGHTS_NAME)]
        cache = cached_assets_path('timm_sbs', 'weights')
    except (OSError, ValueError):
        return None
    digests = [hashlib.sha256(part).digest() for part in (__version__.encode(), torch.__version__.encode(), *parts)]
    return Path(cache, f"{hashlib.sha256(b''.join(digests)).hexdigest()}.safetensors")


def _given(
        variant: str, pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the caller's description says otherwise than the registry's, and that of the registry.

    Of a description that timm has read from a config.json, only the source counts: the artifact describes itself.
    """
    if pretrained_cfg is None or isinstance(pretrained_cfg, str):
        return {}, resolve_pretrained_cfg(variant, pretrained_cfg).to_dict()
    given = pretrained_cfg.to_dict() if isinstance(pretrained_cfg, PretrainedCfg) else pretrained_cfg
    registered = resolve_pretrained_cfg(variant).to_dict()
    if source := {'hf-hub': 'hf_hub_id', 'local-dir': 'file'}.get(given.get('source', '')):
        return {name: given[name] for name in ('source', source)}, registered
    return {name: value for name, value in given.items() if value != registered.get(name)}, registered


def _sources(*descriptions: Mapping[str, Any]) -> dict[str, Any]:
    """Where the weights are, by the first description that says so."""
    for described in descriptions:
        if any(described.get(name) for name in ('state_dict', 'file', 'url', 'hf_hub_id')):
            sources = {name: described[name] for name in ('state_dict', *SOURCES) if described.get(name)}
            if 'file' in sources:
                sources['file'] = str(Path(sources['file']).expanduser())
            return sources
    return {}


def _find(variant: str, sources: Mapping[str, Any], cache_dir: str | Path | None) -> Path | None:
    """The artifact's folder, or None where the sources are those of ordinary weights, or there are none."""
    registered = {'hf_hub_id': resolve_pretrained_cfg(variant).hf_hub_id}
    if sources == registered and (shipped := shipped_folder(variant)):
        return shipped
    if sources.get('state_dict'):  # timm's own way to pass a complete set of weights goes first
        return None
    if sources.get('source') != 'hf-hub' and (file := sources.get('file')):
        path = Path(file)
        if path.is_dir():
            return path
        config = path.with_name(CONFIG_NAME)
        if path.name in (CONFIG_NAME, WEIGHTS_NAME) and config.is_file() and b'"sbs"' in config.read_bytes():
            return path.parent
        if path.is_file():
            return None
        raise ArtifactError(f"'{file}' is neither a checkpoint nor a folder with an artifact ({CONFIG_NAME} and "
                            f'{WEIGHTS_NAME}).')
    return hub.download(sources['hf_hub_id'], cache_dir) if sources.get('hf_hub_id') else None
