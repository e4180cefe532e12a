"""How an ``sbs_*`` model is created: its artifact is found and read, and timm builds the base model around the weights.
"""
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from timm.models import PretrainedCfg, resolve_pretrained_cfg
from torch import Tensor, nn

from timm_sbs.artifact import hub
from timm_sbs.artifact.build import build_around
from timm_sbs.artifact.files import CONFIG_NAME, MAX_CONFIG_BYTES, WEIGHTS_NAME, Described, digest, read_config
from timm_sbs.artifact.folder import check_size, load_artifact, shipped_folder
from timm_sbs.common.errors import ArtifactError, ConfigError
from timm_sbs.common.files import read_file, replace_files
from timm_sbs.common.version import __version__
from timm_sbs.predictor.pretrained_cfg import FIELDS, SOURCES

__all__ = ['create_generated']

MAX_LOOKED_UP = 1 << 29  # bytes of a model.safetensors that is looked for in the cache; larger ones are always decoded


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

    described = read_config(folder)
    own = described.base
    if pretrained_model_args not in (None, own.args):  # timm would pass on whatever they say
        raise ConfigError(
            f"model_args in {CONFIG_NAME} were {pretrained_model_args}, but now the artifact is of '{own.name}' with "
            f'{own.args}. Download or copy the folder again.')
    if base not in (None, own.name):
        raise ArtifactError(
            f"The artifact has weights of '{own.name}', but '{variant}' is '{base}'. Load it with "
            f"timm.create_model('local-dir:FOLDER', pretrained=True).")
    if not pretrained:
        check_size(folder, described)  # refuses what reading the weights would
    weights = None
    if pretrained:
        weights = _cached_weights(folder, described) if 'file' not in sources else _decoded(folder, described)
    sources = {name: value for name, value in sources.items() if name == 'hf_hub_id'}  # timm cannot read artifacts
    return build_around(own.name, weights, {**own.pretrained_cfg, **given, **overlay}, sources, cache_dir, pretrained,
                        own.args, **kwargs)


def _decoded(folder: Path, described: Described) -> dict[str, Tensor]:
    """The state dict of an artifact, generated on the CPU."""
    with torch.device('cpu'):
        return load_artifact(folder, described).state_dict()


def _cached_weights(folder: Path, described: Described) -> dict[str, Tensor]:
    """The state dict of an artifact that nobody edits, from huggingface_hub's folder of assets, which takes a fraction
    of the time. Files there are as large as models, and may be deleted.

    A file's name has the digest of both files of the artifact, and what they were read with; then the digest of its own
    contents. One that is not what its name says is made anew.
    """
    recorded = described.config.digest
    try:
        folder_of_assets = cached_assets_path('timm_sbs', 'weights')
        data = read_file(folder / WEIGHTS_NAME, MAX_LOOKED_UP)
    except (OSError, ValueError, ArtifactError):  # such as a cache that cannot be written, or a large file
        return _decoded(folder, described)
    if data is None or digest(described.structure, data) != recorded:
        return _decoded(folder, described)  # which tells what is wrong
    del data
    made_by = __version__, timm.__version__, torch.__version__, recorded
    key = hashlib.sha256('/'.join(made_by).encode()).hexdigest()
    for file in folder_of_assets.glob(f'{key}-*.safetensors'):
        if (found := _read_cached(file)) is not None:
            return found
    state_dict = _decoded(folder, described)
    contents = safetensors.torch.save({name: tensor.clone() for name, tensor in state_dict.items()})  # none is shared
    file = folder_of_assets / f'{key}-{hashlib.sha256(contents).hexdigest()}.safetensors'
    try:
        for other in folder_of_assets.glob(f'{key}-*.safetensors'):
            other.unlink()
        replace_files({file: contents})
    except OSError:  # the disk is full, or another process was faster
        pass
    return state_dict


def _read_cached(file: Path) -> dict[str, Tensor] | None:
    """What a file of the cache holds, or None if it is not what its name says."""
    try:
        if file.is_symlink() or not file.is_file():
            return None
        found = hashlib.sha256()
        with open(file, 'rb') as opened:
            while part := opened.read(1 << 18):
                found.update(part)
        # Mapped, for the model has a copy of its own soon.
        return safetensors.torch.load_file(file) if file.stem.endswith(f'-{found.hexdigest()}') else None
    except (OSError, SafetensorError):
        return None


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
        if path.name in (CONFIG_NAME, WEIGHTS_NAME) and b'"sbs"' in (read_file(config, MAX_CONFIG_BYTES) or b''):
            return path.parent
        if path.is_file():
            return None
        raise ArtifactError(f"'{file}' is neither a checkpoint nor a folder with an artifact ({CONFIG_NAME} and "
                            f'{WEIGHTS_NAME}).')
    return hub.download(sources['hf_hub_id'], cache_dir) if sources.get('hf_hub_id') else None
