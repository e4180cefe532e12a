"""Frozen dataclasses of settings: their fields, checks, and JSON form. Imports no torch."""
import dataclasses
import math
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

from timm_sbs.common.errors import ConfigError

__all__ = [
    'called', 'name_of', 'named', 'python_only', 'require', 'require_positive', 'require_choice', 'require_range',
    'require_text', 'to_dict', 'from_dict', 'typed']

MAX_TEXT = 4096  # characters
WORDS = {float: 'a number', int: 'an integer', str: 'text', bool: 'true or false', tuple: 'a list', dict: 'a mapping'}

ConfigT = TypeVar('ConfigT', bound='DataclassInstance')


def named(name: str, default: Any, flag: bool = True) -> Any:
    """A field whose name over the tree is another than its own, for several phases have one of that."""
    return dataclasses.field(default=default, metadata={'name': name, 'flag': flag})


def python_only(default: Any) -> Any:
    """A field that Python and YAML set, and that has no flag."""
    return dataclasses.field(default=default, metadata={'flag': False})


def name_of(leaf: 'dataclasses.Field[Any]') -> str:
    """Name of a field over the whole tree."""
    return leaf.metadata.get('name', leaf.name)


def called(leaf: 'dataclasses.Field[Any]') -> str:
    """What a message calls a field: its flag, or its name where it has none."""
    return f"--{name_of(leaf).replace('_', '-')}" if leaf.metadata.get('flag', True) else name_of(leaf)


def require(settings: Any, name: str, holds: Any, must: str) -> None:
    """Raises ConfigError unless a field of a dataclass is what it must be; None is always right."""
    value = getattr(settings, name)
    if value is not None and not (holds(value) and math.isfinite(value)):
        leaf = next(leaf for leaf in dataclasses.fields(settings) if leaf.name == name)
        raise ConfigError(f'{called(leaf)} is {value:g}, but must be {must}.')


def require_positive(settings: Any, *names: str) -> None:
    for name in names:
        require(settings, name, lambda value: value > 0, 'larger than 0')


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
            raise ConfigError(f"{where} has an unknown field {name[:80]!r}. Known fields: {', '.join(fields)}. A later "
                              f'timm_sbs may know it: pip install --upgrade timm_sbs')
    for name, field in fields.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where} lacks the field '{name}'.")
    values = {name: typed(hints[name], value, f'{where}, field {name}') for name, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as e:
        raise ConfigError(f'{where}: {e}') from None


def typed(hint: Any, value: Any, where: str) -> Any:
    """A value of JSON or YAML as a field of this type has it: tuples for lists, floats for integers.

    Raises:
        ConfigError: It is of another type.

    Example:
        >>> typed(tuple[float, ...] | None, [1, 2.5], '--lr')
        (1.0, 2.5)
    """
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        *others, last = (part for part in parts if part is not NoneType)
        for part in others:
            with suppress(ConfigError):
                return typed(part, value, where)
        return typed(last, value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]  # the class
    if kind is tuple and isinstance(value, (list, tuple)):
        kinds = parts[:1] * len(value) if Ellipsis in parts else parts
        if len(value) != len(kinds):
            raise ConfigError(f'{where} has {len(value)} values, but must have {len(kinds)}.')
        return tuple(typed(part, v, f'{where}, entry {i}') for i, (part, v) in enumerate(zip(kinds, value)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000:
        return float(value)
    if kind is Literal:
        right, must = value in parts, f"one of: {', '.join(parts)}"
    else:
        right, must = isinstance(value, kind) and isinstance(value, bool) == (kind is bool), WORDS[kind]
    if not right:
        raise ConfigError(f'{where} is {reprlib.repr(value)}, but must be {must}.')
    return value
