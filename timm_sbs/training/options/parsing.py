"""From command lines, recipes, configuration files and keyword arguments to the trainer's arguments."""
import argparse
from collections.abc import Container, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import yaml

from timm_sbs.common.errors import ConfigError, short_reason

__all__ = ['recipe_names', 'parse_args', 'args_of', 'args_yaml']

_RECIPES = files('timm_sbs.training') / 'recipes'


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(Path(item.name).stem for item in _RECIPES.iterdir() if item.name.endswith('.yaml'))


def _read_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{where} is no YAML: {short_reason(e)}") from e
    if not isinstance(values, dict):
        raise ConfigError(f'{where} must be a YAML mapping from flags to values.')
    return {str(name).replace('-', '_'): value for name, value in values.items()}


def _read_recipe(name: str) -> dict[str, Any]:
    """Flags of a recipe."""
    return _read_yaml((_RECIPES / f'{name}.yaml').read_text(encoding='utf-8'), f'recipe {name}')


def _as_argv(values: Mapping[str, Any], known: Container[str], where: str) -> list[str]:
    """The command line that says the same, so that a file's values are checked as flags are."""
    argv: list[str] = []
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where} sets '{name}', which is no flag of the trainer.")
        flag = '--' + name.replace('_', '-')
        if value is True:
            argv.append(flag)
        elif isinstance(value, Mapping):
            argv += [flag, *(f'{k}={v}' for k, v in value.items())]
        elif isinstance(value, (list, tuple)):
            argv += [flag, *map(str, value)]
        elif value is not None and value is not False:
            argv.append(f'{flag}={value}')
    return argv


def _known_flags(parser: argparse.ArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions} - {'help'}


def parse_args(
        parser: argparse.ArgumentParser,
        argv: Sequence[str],
        unset: Container[str] = (),
) -> argparse.Namespace:
    """Arguments from, each overruling the one before: defaults, the recipe, the configuration file, ``argv``.

    Args:
        parser: Of the trainer.
        argv: Words of the command line.
        unset: Flags that recipe and configuration file do not set, whatever they say.

    Raises:
        ConfigError: The configuration file cannot be read, or sets what is no flag.
    """
    first = type(parser)(add_help=False, allow_abbrev=False)
    first.add_argument('--recipe')
    first.add_argument('-c', '--config')
    found, _ = first.parse_known_args(argv)
    known = _known_flags(parser) - {'recipe', 'config'}
    before: list[str] = []
    if found.recipe in recipe_names():
        before += _as_argv(_without(_read_recipe(found.recipe), unset), known, f'recipe {found.recipe}')
    if found.config:
        try:
            text = Path(found.config).read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"--config '{found.config}' cannot be read: {e}.") from e
        values = _without(_read_yaml(text, found.config), unset)
        before += _as_argv(values, known, f'--config {found.config}')
    return parser.parse_args([*before, *argv])


def _without(values: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


class _RaisingParser(argparse.ArgumentParser):
    """Tells what is wrong as an error, not to a terminal."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f'{message[:1].upper()}{message[1:].rstrip(".")}.')


def args_of(flags: Mapping[str, Any]) -> argparse.Namespace:
    """Arguments from flags by name, with underscores, as :func:`parse_args` makes them from a command line. None and
    False unset what a recipe sets.

    Raises:
        ConfigError: There is no such flag, or a value is not one that it takes.

    Example:
        >>> args_of({'model': 'resnet18', 'pct': 15, 'output': 'out', 'mixup': 1.}).pct
        15.0
    """
    from timm_sbs.training.options.flags import build_parser

    parser = build_parser(_RaisingParser)
    unset = {name for name, value in flags.items() if value is None or value is False} - {'pct', 'bytes'}
    return parse_args(parser, _as_argv(flags, _known_flags(parser), 'The call of fit()'), unset)


def args_yaml(args: argparse.Namespace) -> str:
    """All arguments as YAML that ``--config`` reads back."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(args).items() if name not in ('config', 'recipe', 'dry_run')}
    return yaml.safe_dump(values, default_flow_style=False)
