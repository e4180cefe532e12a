"""How an ``sbs_*`` model comes into being: find its artifact, generate, and let timm build the base around it."""
import dataclasses
import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import torch
from timm.models import PretrainedCfg, model_entrypoint, resolve_pretrained_cfg
from torch import Tensor, nn

from timm_sbs import hub
from timm_sbs.artifact import CONFIG_NAME, WEIGHTS_NAME
from timm_sbs.base_model import describe_base
from timm_sbs.errors import ArtifactError, ConfigError
from timm_sbs.weights import Weights, load_weights

__all__ = ['create_generated', 'embedded_folder']

_SOURCES = ('source', 'url', 'file', 'hf_hub_id', 'hf_hub_filename')


def embedded_folder(name: str) -> Optional[Path]:
    """Folder of a predictor that ships inside the package, or None."""
    folder = Path(__file__).parent.parent / 'predictors' / name
    return folder if folder.is_dir() else None


def create_generated(
        variant: str,
        base: Optional[str],
        pretrained: bool,
        pretrained_cfg: Optional[Union[str, Mapping[str, Any], PretrainedCfg]] = None,
        pretrained_cfg_overlay: Optional[Mapping[str, Any]] = None,
        cache_dir: Optional[Union[str, Path]] = None,
        pretrained_model_args: Optional[Mapping[str, Any]] = None,
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
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    generates = pretrained and not cfg.state_dict  # timm's own way to pass a complete set of weights goes first
    weights = None
    if generates:
        weights = load_weights(_find(variant, base, cfg, cache_dir), _device(kwargs.get('device')))
    if pretrained_model_args is not None:
        _check_stored_args(pretrained_model_args, cfg, weights)
    if not pretrained:
        if base is None:
            raise ConfigError(f"'{variant}' stands for any architecture: say which, with base=NAME.")
        described = variant != 'sbs' or isinstance(pretrained_cfg, Mapping)
        built_from = _without_sources(cfg) if described else None
        return _describe(model_entrypoint(base)(pretrained=False, pretrained_cfg=built_from, **kwargs), cfg)

    if weights is None:
        if base is None:
            raise ConfigError(f"'{variant}' cannot tell which architecture the given state_dict is of. Pass base=NAME.")
        if not all(isinstance(value, Tensor) for value in cfg.state_dict.values()):
            raise ConfigError("The state_dict in pretrained_cfg holds something that is no tensor.")
        state_dict, built_from, defaults = dict(cfg.state_dict), _without_sources(cfg), {}
    else:
        base = _check_base(variant, base, weights)
        state_dict, defaults = weights.state_dict, weights.config.base_args
        built_from = {**_original_cfg(weights), **_given_fields(variant, pretrained_cfg, pretrained_cfg_overlay)}
    model = model_entrypoint(base)(
        pretrained=True,
        pretrained_cfg={**built_from, 'state_dict': {k: v.as_subclass(_NotCopied) for k, v in state_dict.items()}},
        cache_dir=cache_dir,
        **{**defaults, **kwargs},
    )
    return _describe(model, cfg)


class _NotCopied(Tensor):
    """A weight on its way into the model: timm makes deep copies of the description that the weights come with."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # as in nn.Parameter: results are plain tensors

    def __deepcopy__(self, memo: Dict[int, Any]) -> Tensor:
        return self


def _device(given: Optional[Union[str, torch.device]]) -> torch.device:
    """Where the model is built: as its arguments say, or where torch makes all tensors."""
    return torch.get_default_device() if given is None else torch.device(given)


def _check_stored_args(stored: Mapping[str, Any], cfg: PretrainedCfg, weights: Optional[Weights]) -> None:
    """Raises TargetError for arguments of a config.json that no base model may be given, or that would build for ever.

    timm has merged them into the caller's own, and would pass them on as they are.
    """
    if weights and stored == {**weights.config.base_args, 'base': weights.config.base}:
        return  # the base was built from these when the artifact was read
    args = {name: value for name, value in stored.items() if name != 'base'}
    base = stored.get('base')
    if not isinstance(base, str):
        raise ConfigError(f"model_args.base in {CONFIG_NAME} is {base!r}, but must name an architecture.")
    describe_base(base, args, {'num_classes': cfg.num_classes, 'input_size': cfg.input_size})


def _find(variant: str, base: Optional[str], cfg: PretrainedCfg, cache_dir: Optional[Union[str, Path]]) -> Path:
    """The artifact's folder: one that the caller names, else the one in the package, else that on the Hub."""
    if cfg.source == 'hf-hub':  # whatever else the repository's own config.json may name
        return hub.download(cfg.hf_hub_id, cache_dir)
    if cfg.file:
        path = Path(cfg.file)
        if path.name in (CONFIG_NAME, WEIGHTS_NAME):
            path = path.parent
        if not path.is_dir():
            raise ArtifactError(f"'{cfg.file}' is no folder of a predictor ({CONFIG_NAME} and {WEIGHTS_NAME}).")
        return path
    embedded = embedded_folder(variant)
    if embedded and cfg.hf_hub_id == resolve_pretrained_cfg(variant).hf_hub_id:
        return embedded
    if cfg.hf_hub_id:
        try:
            return hub.download(cfg.hf_hub_id, cache_dir)
        except ArtifactError as e:
            raise ArtifactError(f'{e}{_ways_out(variant, base)}') from e
    raise ArtifactError(
        f"'{variant}' does not say where its predictor is. Use timm.create_model('hf-hub:user/name', pretrained=True) "
        f"or 'local-dir:FOLDER', or pass pretrained_cfg_overlay=dict(file=FOLDER).")


def _ways_out(variant: str, base: Optional[str]) -> str:
    """What to do where the predictor of a named entry is not to be had."""
    size = re.search(r'_(\d+)pct$', variant)
    if base is None or size is None:
        return ''
    return (f" Or fit one yourself: train_sbs.py --model {base} --pct {size[1]} --output FOLDER. "
            f"Or use the original: timm.create_model('{base}', pretrained=True).")


def _check_base(variant: str, base: Optional[str], weights: Weights) -> str:
    fitted_to = weights.config.base
    if base not in (None, fitted_to):
        raise ArtifactError(
            f"The predictor generates weights of '{fitted_to}', but '{variant}' is '{base}'. "
            f"Load it with timm.create_model('local-dir:FOLDER', pretrained=True).")
    return fitted_to


def _without_sources(cfg: PretrainedCfg) -> Dict[str, Any]:
    cleared = dict.fromkeys(_SOURCES)
    return dataclasses.replace(cfg, state_dict=None, custom_load=False, **cleared).to_dict()


def _original_cfg(weights: Weights) -> Dict[str, Any]:
    """timm's description of the original, as the artifact has it."""
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    unknown = sorted(set(weights.pretrained_cfg) - known)
    if unknown:
        raise ArtifactError(f"{CONFIG_NAME} of the predictor has an unknown pretrained_cfg field '{unknown[0]}'.")
    return _without_sources(PretrainedCfg(**weights.pretrained_cfg))


def _given_fields(
        variant: str,
        pretrained_cfg: Optional[Union[str, Mapping[str, Any], PretrainedCfg]],
        overlay: Optional[Mapping[str, Any]],
) -> Dict[str, Any]:
    """What the caller, not the registry, says about data and classifier."""
    given = pretrained_cfg if isinstance(pretrained_cfg, Mapping) else {}
    fields = {**given, **(overlay or {}), 'architecture': variant}
    return {k: v for k, v in fields.items() if k not in (*_SOURCES, 'state_dict', 'custom_load')}


def _describe(model: nn.Module, cfg: PretrainedCfg) -> nn.Module:
    """Take the state dict out of every module's pretrained_cfg, and say where the predictor is instead."""
    sources = {k: v for k in _SOURCES if (v := getattr(cfg, k)) is not None}
    for module in model.modules():
        for name in ('pretrained_cfg', 'default_cfg'):
            described = module.__dict__.get(name)
            if isinstance(described, dict):
                setattr(module, name, {**{k: v for k, v in described.items() if k != 'state_dict'}, **sources})
    return model
