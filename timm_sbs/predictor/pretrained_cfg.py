"""timm's description of weights, its ``pretrained_cfg``: which fields timm is given, and what each must be."""
import dataclasses
from collections.abc import Mapping
from typing import Any

from timm.models import PretrainedCfg
from torch import nn

from timm_sbs.common.errors import ConfigError, TargetError
from timm_sbs.common.fields import typed

__all__ = ['FIELDS', 'SOURCES', 'checked_cfg', 'check_input_and_classes', 'named_in_cfg', 'pretrained_cfg_of']

FIELDS = {field.name for field in dataclasses.fields(PretrainedCfg)}
SOURCES = ('source', 'url', 'file', 'hf_hub_id', 'hf_hub_filename')  # fields that say where weights are
MAX_CLASSES = 1 << 16  # timm's largest: 21,843
MAX_NAMES = 64  # of modules
MAX_SIDE = 1 << 11  # of an image, and channels; timm's largest: 1,024

_Size = tuple[int, int, int] | None
_Names = tuple[str, ...] | str | None
_HINTS: dict[str, Any] = {
    'input_size': _Size, 'test_input_size': _Size, 'min_input_size': _Size, 'fixed_input_size': bool,
    'interpolation': str, 'crop_pct': float, 'test_crop_pct': float | None, 'crop_mode': str,
    'mean': tuple[float, ...], 'std': tuple[float, ...],
    'num_classes': int, 'label_offset': int | None, 'label_names': tuple[str, ...] | None,
    'label_descriptions': dict | None,
    'pool_size': tuple[int, ...] | None, 'test_pool_size': tuple[int, ...] | None,
    'first_conv': _Names, 'classifier': _Names,
    'license': str | None, 'description': str | None, 'origin_url': str | None, 'paper_name': str | None,
    'paper_ids': _Names, 'notes': _Names,
}


def checked_cfg(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a description that timm is given, with tuples where JSON has lists. Those that say whose weights
    are described, and where they are, are left out: the generated ones are others.

    Raises:
        ConfigError: A field is not of the type that timm expects, or too long.

    Example:
        >>> checked_cfg({'input_size': [3, 32, 32], 'tag': 'in1k', 'surprise': 1})['input_size']
        (3, 32, 32)
    """
    expected = {name: value for name, value in pretrained_cfg.items() if name in _HINTS and name in FIELDS}
    for name, value in expected.items():
        most = MAX_NAMES if name in ('first_conv', 'classifier') else MAX_CLASSES
        if isinstance(value, (list, tuple, dict)) and len(value) > most:
            raise ConfigError(f'pretrained_cfg.{name} has {len(value):,} entries, but may have {most:,} at the most.')
    known = {name: typed(_HINTS[name], value, f'pretrained_cfg.{name}') for name, value in expected.items()}
    described = PretrainedCfg(**known).to_dict()
    return {name: value for name, value in described.items() if name in _HINTS}


def check_input_and_classes(pretrained_cfg: Mapping[str, Any]) -> None:
    """Raises TargetError unless a description says how large inputs are, and how many classes there are."""
    num_classes, input_size = pretrained_cfg.get('num_classes'), pretrained_cfg.get('input_size')
    if not _is_int(num_classes, 0, MAX_CLASSES):
        raise TargetError(f'pretrained_cfg.num_classes is {num_classes!r}, but must be from 0 to {MAX_CLASSES:,}.')
    if not (isinstance(input_size, (list, tuple)) and len(input_size) == 3
            and all(_is_int(size, 1, MAX_SIDE) for size in input_size)):
        raise TargetError(f'pretrained_cfg.input_size is {input_size!r}, but must be [channels, height, width], each '
                          f'up to {MAX_SIDE:,}.')


def _is_int(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def named_in_cfg(pretrained_cfg: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Modules that ``first_conv`` or ``classifier`` names: none, one or several."""
    names = pretrained_cfg.get(field) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def pretrained_cfg_of(model: nn.Module) -> dict[str, Any]:
    """timm's description of a model's weights: the model's own dict.

    Raises:
        TargetError: The model has none, so timm has not made it.
    """
    pretrained_cfg = getattr(model, 'pretrained_cfg', None)
    if not isinstance(pretrained_cfg, dict):
        raise TargetError(f'{type(model).__name__} has no pretrained_cfg, as models of timm.create_model have.')
    return pretrained_cfg
