"""Frozen dataclasses of settings and results: their checks, and their JSON form. Imports no torch."""
import dataclasses
import math
from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

from timm_sbs.common.errors import ConfigError, UnknownFieldError

__all__ = ['require_choice', 'require_range', 'require_text', 'require_json', 'to_dict', 'to_json', 'from_dict']

MAX_DEPTH = 16  # objects inside of one another
MAX_TEXT = 4096  # characters

ConfigT = TypeVar('ConfigT', bound='DataclassInstance')


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless a text is one of a few."""
    if value not in choices:
        raise ConfigError(f"{name} is '{value}', but must be one of: {', '.join(choices)}.")


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError unless a number is in a range, which NaN never is."""
    if not low <= value <= high:
        raise ConfigError(f'{name} is {value}, but must be from {low:g} to {high:g}.')


def require_text(name: str, value: str) -> None:
    """Raises ConfigError unless a text can be printed: on one line, without control characters."""
    if len(value) > MAX_TEXT or not value.isprintable():
        raise ConfigError(f'{name} is {value[:40]!r}, but must be one line of up to {MAX_TEXT} printable characters.')


def require_json(name: str, value: Any, depth: int = 0) -> None:
    """Raises ConfigError unless a value can be written as JSON: texts, finite numbers, None, lists and mappings."""
    if isinstance(value, Mapping) and depth < MAX_DEPTH and all(isinstance(key, str) for key in value):
        for part in value.values():
            require_json(name, part, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < MAX_DEPTH:
        for part in value:
            require_json(name, part, depth + 1)
    elif not (value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))):
        raise ConfigError(f'{name} holds {str(value)[:40]!r}, which cannot be written as JSON.')


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready form of a configuration dataclass: tuples as lists, nested dataclasses as objects.

    Fields with their default value are left out, but for those whose metadata say 'always'. So a default is part of the
    format: who changes one raises the format version.
    """
    return {
        f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)
        if f.metadata.get('always') or getattr(config, f.name) != _default(f)}


def _default(field: 'dataclasses.Field[Any]') -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def to_json(value: Any) -> Any:
    """A setting or result in its JSON form."""
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    return value


def from_dict(cls: type[ConfigT], data: Any, where: str, depth: int = 0) -> ConfigT:
    """Build dataclass ``cls`` from its JSON form.

    Args:
        cls: A dataclass of settings or of results.
        data: A parsed JSON object. Fields that have a default may be missing.
        where: What the object is, for error messages, such as "'sbs' in out/config.json".
        depth: How many objects this one is inside of.

    Raises:
        ConfigError: ``data`` is no object, has an unknown field, lacks one, or holds a value of the wrong type; or it
            is inside of more than 16 others. Records (:mod:`timm_sbs.common.results`) keep unknown fields.
    """
    if depth > MAX_DEPTH:
        raise ConfigError(f'{where[:300]} is nested more than {MAX_DEPTH} levels deep.')
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where} must be a JSON object, but is {type(data).__name__}.')
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(str(k) for k in data if k not in names)
    if unknown and not hasattr(cls, 'keep'):
        raise UnknownFieldError(f"{where} has an unknown field {unknown[0][:80]!r}. Known fields: {', '.join(names)}.")
    missing = [
        f.name for f in dataclasses.fields(cls)
        if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{where} lacks the field '{missing[0]}'.")
    values = {
        name: _typed(hints[name], data[name], f'{where}, field {name}', depth) for name in names if name in data}
    try:
        made = cls(**values)
        if hasattr(made, 'keep'):
            made.keep(data)
    except ConfigError as e:
        raise ConfigError(f'{where}: {e}') from None
    return made


def _typed(hint: Any, value: Any, where: str, depth: int) -> Any:
    if get_origin(hint) in (Union, UnionType):  # X | None
        return None if value is None else _typed(get_args(hint)[0], value, where, depth)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where, depth + 1)
    origin = get_origin(hint) or hint
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{where} must be a list of {get_args(hint)[0].__name__}.')
        return tuple(_typed(get_args(hint)[0], v, f'{where}, entry {i}', depth) for i, v in enumerate(value))
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f'{where} is too large a number.') from None
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise ConfigError(f'{where} must be of type {origin.__name__}, but is {type(value).__name__}.')
    return value
