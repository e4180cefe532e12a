"""How an ``sbs_*`` model comes into being: find its artifact, generate, and let timm build the base around it."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import PretrainedCfg, resolve_pretrained_cfg
from torch import nn

from timm_sbs.artifact import download as hub
from timm_sbs.artifact.build import FIELDS, SOURCES, build_around
from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, ArtifactFiles, read_config
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.load_weights import load_weights
from timm_sbs.common.cache import cache_folder
from timm_sbs.common.errors import ArtifactError, ConfigError
from timm_sbs.predictor.base_model import describe_base

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
        pretrained: Whether to generate weights.
        pretrained_cfg: As timm passes it: None, a tag, or the pretrained_cfg of a config.json.
        pretrained_cfg_overlay: ``file`` names an artifact's folder, or an ordinary checkpoint of the base, as ``url``
            does; ``hf_hub_id`` a repository; other keys as in timm.
        cache_dir: Cache of downloads.
        pretrained_model_args: Arguments stored in a config.json, which timm has merged into ``kwargs`` already.
        **kwargs: Arguments of the base model and of timm's builder, such as features_only.

    Raises:
        SbsError: There is no artifact, it is damaged, or it belongs to another base.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    given, registered = _given(variant, pretrained_cfg)
    places = _places(overlay, given, registered)
    if unknown := set(overlay) - FIELDS:
        raise ConfigError(f"pretrained_cfg_overlay has '{min(unknown)}', which is no field of timm's PretrainedCfg.")
    fields = {**given, **overlay}
    if base is not None and not pretrained:
        if (own := _own_folder(variant, places)) and cache_folder():  # timm.models.load_pretrained needs a file
            places = _sources(places, load_weights(own).file)
        return build_around(base, None, {**registered, **fields}, places, cache_dir, False, **kwargs)
    folder = _find(variant, places, cache_dir, (CONFIG_NAME, WEIGHTS_NAME) if pretrained else (CONFIG_NAME,))
    if folder is None and base is not None:
        state_dict = places.pop('state_dict', None)
        return build_around(base, state_dict, {**registered, **fields}, places, cache_dir, **kwargs)
    if folder is None:
        raise ArtifactError(
            f"'{variant}' stands for no network: its predictor says which. Use timm.create_model('hf-hub:user/name', "
            f"pretrained=True) or 'local-dir:FOLDER', or pass pretrained_cfg_overlay=dict(file=FOLDER).")

    state_dict, sources = None, {}
    if pretrained:
        weights = load_weights(folder, _device(kwargs.get('device')))
        config, described, state_dict = weights.config, weights.pretrained_cfg, weights.state_dict
        sources = _sources(places, weights.file)
    else:
        config, described = read_config(folder)
        describe_base(config.base, config.base_args, described)  # refuses what reading the weights would
    if base not in (None, config.base):
        raise ArtifactError(
            f"The predictor generates weights of '{config.base}', but '{variant}' is '{base}'. "
            f"Load it with timm.create_model('local-dir:FOLDER', pretrained=True).")
    if pretrained_model_args not in (None, config.base_args):  # timm would pass on whatever they say
        raise ConfigError(
            f"model_args in {CONFIG_NAME} are {str(pretrained_model_args)[:200]}, but the predictor is of "
            f"'{config.base}' with {str(config.base_args)[:200]}. Download or copy the folder again.")
    if config.base_args:
        kwargs = {**config.base_args, **kwargs, 'pretrained_model_args': config.base_args}
    return build_around(config.base, state_dict, {**described, **fields}, sources, cache_dir, pretrained, **kwargs)


def _device(given: str | torch.device | None) -> torch.device:
    """Where the model is built: as its arguments say, or where torch makes all tensors."""
    return torch.empty(0).device if given is None else torch.device(given)


def _given(
        variant: str, pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the caller's description says otherwise than the registry's, and that of the registry.

    Of a description that timm has read from a config.json, only the place counts: the artifact describes itself.
    """
    if pretrained_cfg is None or isinstance(pretrained_cfg, str):
        return {}, resolve_pretrained_cfg(variant, pretrained_cfg).to_dict()
    given = pretrained_cfg.to_dict() if isinstance(pretrained_cfg, PretrainedCfg) else pretrained_cfg
    registered = resolve_pretrained_cfg(variant).to_dict()
    if place := {'hf-hub': 'hf_hub_id', 'local-dir': 'file'}.get(given.get('source', '')):
        return {name: given[name] for name in ('source', place)}, registered
    return {name: value for name, value in given.items() if value != registered.get(name)}, registered


def _places(*descriptions: Mapping[str, Any]) -> dict[str, Any]:
    """Where the weights are, by the first description that says so."""
    for described in descriptions:
        if any(described.get(name) for name in ('state_dict', 'file', 'url', 'hf_hub_id')):
            places = {name: described[name] for name in ('state_dict', *SOURCES) if described.get(name)}
            if 'file' in places:
                places['file'] = str(Path(places['file']).expanduser())
            return places
    return {}


def _own_folder(variant: str, places: Mapping[str, Any]) -> Path | None:
    """The folder inside the package, where the registry, and nobody else, says where the entry's weights are."""
    own = {'hf_hub_id': resolve_pretrained_cfg(variant).hf_hub_id}
    return shipped_folder(variant) if places == own else None


def _find(variant: str, places: Mapping[str, Any], cache_dir: str | Path | None, names: tuple[str, ...]) -> Path | None:
    """The artifact's folder, or None where the places are those of ordinary weights, or there are none."""
    if own := _own_folder(variant, places):
        return own
    if places.get('state_dict'):  # timm's own way to pass a complete set of weights goes first
        return None
    if places.get('source') != 'hf-hub' and (file := places.get('file')):
        path = Path(file)
        folder = path.parent if path.name in (CONFIG_NAME, WEIGHTS_NAME) else path
        if folder.is_dir() and (folder == path or _is_artifact(folder)):
            return folder
        if path.is_file():
            return None
        raise ArtifactError(f"'{file}' is neither a checkpoint nor a folder of a predictor ({CONFIG_NAME} and "
                            f'{WEIGHTS_NAME}).')
    return hub.download(places['hf_hub_id'], cache_dir, names) if places.get('hf_hub_id') else None


def _is_artifact(folder: Path) -> bool:
    try:
        return b'"sbs"' in ArtifactFiles.of(folder).config
    except ArtifactError:
        return False


def _sources(places: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """Where timm.models.load_pretrained finds generated weights again: in the cache, for it cannot read artifacts."""
    hub_id = {'hf_hub_id': places['hf_hub_id']} if places.get('hf_hub_id') else {}
    return {**hub_id, 'file': str(file)} if file else hub_id
