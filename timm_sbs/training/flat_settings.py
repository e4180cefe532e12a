"""Settings by name: from keywords and YAML files to the tree, and back."""
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from os.path import expanduser
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import yaml

from timm_sbs.common.errors import ConfigError, did_you_mean, short_reason
from timm_sbs.common.fields import called, name_of, typed
from timm_sbs.training.settings import Settings

__all__ = ['flat', 'read_yaml', 'recipe_names', 'settings_fields', 'settings_of']

_RECIPES = files('timm_sbs.training') / 'recipes'
_EXPONENT = re.compile(r'[-+]?\d+e[-+]?\d+', re.IGNORECASE)  # text in YAML 1.1, for it has no dot


def settings_fields() -> Iterator[tuple[str, 'dataclasses.Field[Any]']]:
    """Every field of the tree, and the name of the part that it belongs to, in order."""
    for part in dataclasses.fields(Settings):
        for leaf in dataclasses.fields(part.default):  # type: ignore[arg-type]  # an instance of a dataclass
            yield part.name, leaf


def settings_of(
        values: Mapping[str, Any], where: str = 'The call', default: Settings = Settings()) -> Settings:
    """The settings ``default`` with other values, by name. ``pct`` takes the place of ``bytes``, and ``bytes`` that of
    ``pct`` and ``bits``.

    Raises:
        ConfigError: There is no such setting, a value has the wrong type or is out of range, or two exclude each other.

    Example:
        >>> settings_of({'pct': 15, 'distillation_steps': 1000}).distillation.steps
        1000
    """
    known = {name_of(leaf): (part, leaf) for part, leaf in settings_fields()}
    changes: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where} sets '{name}', which is not a setting.{did_you_mean(name, known)}")
        part, leaf = known[name]
        hint = get_type_hints(type(getattr(default, part)))[leaf.name]
        changes.setdefault(part, {})[leaf.name] = typed(hint, _plain(hint, value), f'{where}: {called(leaf)}')
    target = changes.get('target', {})
    for size, other in (('pct', 'bytes'), ('bytes', 'pct'), ('bytes', 'bits')):
        if target.get(size) is not None:
            target.setdefault(other, None)
    return dataclasses.replace(default, **{
        part: dataclasses.replace(getattr(default, part), **fields) for part, fields in changes.items()})


def _plain(hint: Any, value: Any) -> Any:
    """A value as YAML has it: text for paths, and a list where a field takes several."""
    if get_origin(hint) is tuple:
        return [_plain(None, part) for part in (value if isinstance(value, (list, tuple)) else [value])]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def flat(settings: Settings) -> dict[str, Any]:
    """Names and values of all settings that differ from the defaults, as :func:`settings_of` takes them."""
    usual, found = Settings(), {}
    for part, leaf in settings_fields():
        value = getattr(getattr(settings, part), leaf.name)
        if value != getattr(getattr(usual, part), leaf.name):
            found[name_of(leaf)] = list(value) if isinstance(value, tuple) else value
    return found


def recipe_names() -> list[str]:
    """Names of the YAML files that ship."""
    return sorted(Path(item.name).stem for item in _RECIPES.iterdir() if item.name.endswith('.yaml'))


def read_yaml(source: str) -> dict[str, Any]:
    """Names and values of a YAML file, or of one that ships, by its name.

    Raises:
        ConfigError: It cannot be read, or is not a mapping.
    """
    path = _RECIPES / f'{source}.yaml' if source in recipe_names() else Path(expanduser(source))
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"'{source}' could not be read: {short_reason(e)}. It must be a YAML file, or one of: "
                          f"{', '.join(recipe_names())}.") from e
    if not isinstance(values, dict):
        raise ConfigError(f"'{source}' must be a YAML mapping from settings to values.")
    return {str(name).replace('-', '_'): _with_numbers(value) for name, value in values.items()}


def _with_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_numbers(part) for part in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
