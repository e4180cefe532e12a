"""Fields of settings: their names over the whole tree, whether they have a flag, and what their values must be."""
import dataclasses
import math
from typing import Any

from timm_sbs.common.errors import ConfigError

__all__ = ['called', 'name_of', 'named', 'python_only', 'require', 'require_positive']


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
