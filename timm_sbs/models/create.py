"""How an ``sbs_*`` model comes into being: find its artifact, generate, and let timm build the base around it."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, is_model, model_entrypoint, resolve_pretrained_cfg
from torch import nn

from timm_sbs.artifact import download as hub
from timm_sbs.artifact.build import SOURCES, build_around, describe, known_cfg, without_sources
from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.load_weights import Weights, load_weights
from timm_sbs.common.errors import ArtifactError, ConfigError
from timm_sbs.predictor.base_model import describe_base

__all__ = ['create_generated']


def create_generated(
        variant: str,
        base: str | None,
        pretrained: bool,
        pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        pretrained_model_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
) -> nn.Module:
    """Create a base model, with generated weights if ``pretrained``.

    The weights are generated for the original's classes and channels, and handed to timm as a state dict, so that
    timm itself adapts stem and classifier to ``in_chans`` and ``num_classes``. The result is the base model as timm
    builds it; only its ``pretrained_cfg`` says where the weights came from.

    Args:
        variant: Registered name of the entry.
        base: Architecture that the entry stands for; None for whatever the artifact names.
        pretrained: Whether to generate weights.
        pretrained_cfg: As timm passes it: None, a tag, or the pretrained_cfg of a config.json.
        pretrained_cfg_overlay: ``file`` names an artifact's folder, ``hf_hub_id`` a repository; other keys as in timm.
        cache_dir: Cache of downloads.
        pretrained_model_args: Arguments stored in a config.json, which timm has merged into ``kwargs`` already.
        **kwargs: Arguments of the base model and of timm's builder, such as features_only.

    Raises:
        SbsError: There is no artifact, it is damaged, or it belongs to another base.
    """
    if base is not None and not (isinstance(base, str) and is_model(base)):
        raise ConfigError(f"timm {timm.__version__} has no model '{base}'. List them with timm.list_models().")
    given = dict(pretrained_cfg) if isinstance(pretrained_cfg, Mapping) else pretrained_cfg
    cfg = resolve_pretrained_cfg(
        variant, given, dict(pretrained_cfg_overlay or {}))  # type: ignore[arg-type]  # it takes a PretrainedCfg too
    sources = {name: value for name in SOURCES if (value := getattr(cfg, name)) is not None}
    stored = pretrained_model_args
    if not pretrained:
        _check_stored_args(stored, cfg)
        if base is None:
            raise ConfigError(f"'{variant}' stands for any architecture: say which, with base=NAME.")
        described = variant != 'sbs' or isinstance(pretrained_cfg, Mapping)
        built_from = without_sources(cfg) if described else None
        return describe(model_entrypoint(base)(pretrained=False, pretrained_cfg=built_from, **kwargs), sources)
    if cfg.state_dict:  # timm's own way to pass a complete set of weights goes first
        if base is None:
            raise ConfigError(f"'{variant}' cannot tell which architecture the given state_dict is of. Pass base=NAME.")
        _check_stored_args(stored, cfg)
        return build_around(base, cfg.state_dict, without_sources(cfg), sources, cache_dir, **kwargs)
    weights = load_weights(_find(variant, cfg, cache_dir), _device(kwargs.get('device')))
    if stored != {**weights.config.base_args, 'base': weights.config.base}:  # else reading it has built the base so
        _check_stored_args(stored, cfg)
    fitted_to = _check_base(variant, base, weights)
    fields = _given_fields(variant, pretrained_cfg, pretrained_cfg_overlay, weights)
    return build_around(
        fitted_to, weights.state_dict, {**known_cfg(weights.pretrained_cfg), **fields}, sources, cache_dir,
        **{**weights.config.base_args, **kwargs})


def _device(given: str | torch.device | None) -> torch.device:
    """Where the model is built: as its arguments say, or where torch makes all tensors."""
    return torch.empty(0).device if given is None else torch.device(given)


def _check_stored_args(stored: Mapping[str, Any] | None, cfg: PretrainedCfg) -> None:
    """Raises SbsError for arguments of a config.json that no base model may be given, or that would build for ever.

    timm has merged them into the caller's own, and would pass them on as they are.
    """
    if stored is None:
        return
    args = {name: value for name, value in stored.items() if name != 'base'}
    base = stored.get('base')
    if not isinstance(base, str):
        raise ConfigError(f"model_args.base in {CONFIG_NAME} is {base!r}, but must name an architecture.")
    describe_base(base, args, {'num_classes': cfg.num_classes, 'input_size': cfg.input_size})


def _find(variant: str, cfg: PretrainedCfg, cache_dir: str | Path | None) -> Path:
    """The artifact's folder: one that the caller names, else the one in the package, else that on the Hub."""
    if cfg.source == 'hf-hub' and cfg.hf_hub_id:  # whatever else the repository's own config.json may name
        return hub.download(cfg.hf_hub_id, cache_dir)
    if cfg.file:
        path = Path(cfg.file)
        if path.name in (CONFIG_NAME, WEIGHTS_NAME):
            path = path.parent
        if not path.is_dir():
            raise ArtifactError(f"'{cfg.file}' is no folder of a predictor ({CONFIG_NAME} and {WEIGHTS_NAME}).")
        return path
    embedded = shipped_folder(variant)
    if embedded and cfg.hf_hub_id == resolve_pretrained_cfg(variant).hf_hub_id:
        return embedded
    if cfg.hf_hub_id:
        return hub.download(cfg.hf_hub_id, cache_dir)
    raise ArtifactError(
        f"'{variant}' does not say where its predictor is. Use timm.create_model('hf-hub:user/name', pretrained=True) "
        f"or 'local-dir:FOLDER', or pass pretrained_cfg_overlay=dict(file=FOLDER).")


def _check_base(variant: str, base: str | None, weights: Weights) -> str:
    fitted_to = weights.config.base
    if base not in (None, fitted_to):
        raise ArtifactError(
            f"The predictor generates weights of '{fitted_to}', but '{variant}' is '{base}'. "
            f"Load it with timm.create_model('local-dir:FOLDER', pretrained=True).")
    return fitted_to


def _given_fields(
        variant: str,
        pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None,
        overlay: Mapping[str, Any] | None,
        weights: Weights,
) -> dict[str, Any]:
    """What the caller, not the registry, says about data and classifier.

    What timm has read from a config.json counts for fields only that the artifact's own description lacks: the
    repository may have moved on, or the folder may have been written, since timm read it.
    """
    given = dict(pretrained_cfg) if isinstance(pretrained_cfg, Mapping) else {}
    if given.get('source') in ('hf-hub', 'local-dir'):
        given = {name: value for name, value in given.items() if name not in weights.pretrained_cfg}
    fields = {**given, **(overlay or {}), 'architecture': variant}
    return {name: value for name, value in fields.items() if name not in (*SOURCES, 'state_dict', 'custom_load')}
