"""Frozen dataclasses of settings: their checks, and their JSON form. Imports no torch."""
import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

from timm_sbs.common.errors import ConfigError, UnknownFieldError

__all__ = ['require_choice', 'require_range', 'require_text', 'to_dict', 'from_dict']

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


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready form of a configuration dataclass: tuples as lists, nested dataclasses as objects.

    Fields with their default value are left out, but for those whose metadata say 'always'. So a default is part of the
    format: changing one needs another format version.
    """
    return {
        f.name: _to_json(getattr(config, f.name)) for f in dataclasses.fields(config)
        if f.metadata.get('always') or getattr(config, f.name) != _default(f)}


def _default(field: 'dataclasses.Field[Any]') -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(cls: type[ConfigT], data: Any, where: str) -> ConfigT:
    """Build dataclass ``cls`` from its JSON form.

    Args:
        cls: A dataclass of settings.
        data: A parsed JSON object. Fields that have a default may be missing.
        where: What the object is, for error messages, such as "'sbs' in out/config.json".

    Raises:
        ConfigError: ``data`` is not an object, has an unknown field, lacks one, or holds a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where} must be a JSON object, but is {type(data).__name__}.')
    hints, fields = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    for name in sorted(map(str, data)):
        if name not in fields:
            raise UnknownFieldError(f"{where} has an unknown field {name[:80]!r}. Known fields: {', '.join(fields)}.")
    for name, field in fields.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where} lacks the field '{name}'.")
    values = {name: _typed(hints[name], value, f'{where}, field {name}') for name, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as e:
        raise ConfigError(f'{where}: {e}') from None


def _typed(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (Union, UnionType):  # X | None
        return None if value is None else _typed(get_args(hint)[0], value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]  # the class
    origin = get_origin(hint) or hint
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{where} must be a list of {get_args(hint)[0].__name__}.')
        return tuple(_typed(get_args(hint)[0], v, f'{where}, entry {i}') for i, v in enumerate(value))
    if origin is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000:
        return float(value)
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise ConfigError(f'{where} must be of type {origin.__name__}, but is {type(value).__name__}.')
    return value
