"""From command lines, recipes, configuration files and keyword arguments to the trainer's arguments."""
import argparse
import copy
from collections.abc import Container, Mapping, Sequence
from importlib.resources import files
from os.path import expanduser
from pathlib import Path
from typing import Any, NoReturn

import yaml

from timm_sbs.common.errors import ConfigError, short_reason

__all__ = ['PCT', 'Arguments', 'recipe_names', 'parse_args', 'args_of', 'args_yaml']

SIZES = {'pct', 'bytes'}  # of which a run has one
PCT = 20.  # where nothing says a size
KWARGS = 'model_kwargs'  # whose values are Python's, and not words
_RECIPES = files('timm_sbs.training') / 'recipes'


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(Path(item.name).stem for item in _RECIPES.iterdir() if item.name.endswith('.yaml'))


class Arguments(argparse.Namespace):
    """The trainer's arguments, all of them in ``vars()``.

    Attributes:
        given: Names of those that the call itself says, unlike recipes and files, and that are not the default.
    """
    __slots__ = ('given',)
    given: frozenset[str]


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
    """The command line that says the same, so that a file's values are checked as flags are; model_kwargs have none."""
    argv: list[str] = []
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where} sets '{name}', which is no flag of the trainer.")
        flag = '--' + name.replace('_', '-')
        if value is True:
            argv.append(flag)
        elif isinstance(value, (list, tuple)):
            argv += [flag, *map(str, value)]
        elif value is not None and value is not False and not (name == KWARGS and isinstance(value, Mapping)):
            argv.append(f'{flag}={value}')
    return argv


def _known_flags(parser: argparse.ArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions} - {'help'}


def parse_args(
        parser: argparse.ArgumentParser,
        argv: Sequence[str],
        unset: Container[str] = (),
) -> Arguments:
    """Arguments from, each overruling the one before: defaults, the recipe, the configuration file, ``argv``.

    Args:
        parser: Of the trainer.
        argv: Words of the command line.
        unset: Flags that recipe and configuration file do not set, whatever they say.

    Raises:
        ConfigError: The configuration file cannot be read, or sets what is no flag; or one of them, or the call, says
            two sizes.
    """
    given = _given(parser, argv)
    first = type(parser)(add_help=False, allow_abbrev=False)
    first.add_argument('--recipe')
    first.add_argument('-c', '--config', type=expanduser)
    found, _ = first.parse_known_args(argv)
    known = _known_flags(parser) - {'recipe', 'config'}
    layers: list[tuple[str, dict[str, Any]]] = [('The call', given)]
    if found.config:
        try:
            text = Path(found.config).read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"--config '{found.config}' cannot be read: {e}.") from e
        layers.append((f'--config {found.config}', _read_yaml(text, found.config)))
    if found.recipe in recipe_names():
        layers.append((f'recipe {found.recipe}', _read_recipe(found.recipe)))
    words, given_kwargs, overruled = list(argv), given.get(KWARGS), set[str]()
    for where, values in layers:
        sizes = {name for name in SIZES if values.get(name) is not None}
        if len(sizes) > 1:
            raise ConfigError(f'{where} says two sizes, --pct and --bytes: the first is of a predictor, the second of '
                              f'the files. Say one.')
        if values is not given:
            kept = {name: value for name, value in values.items() if name not in overruled and name not in unset}
            words = _as_argv(kept, known, where) + words
            given_kwargs = given_kwargs or _tuples(kept.get(KWARGS))
        overruled |= SIZES if sizes else set()
    args = parser.parse_args(words, Arguments())
    if isinstance(given_kwargs, Mapping):
        setattr(args, KWARGS, given_kwargs)
    if args.pct is None and args.bytes is None:
        args.pct = PCT
    usual = {action.dest: action.default for action in parser._actions}
    args.given = frozenset(name for name, value in given.items() if value != usual[name] and _is_on(value))
    return args


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """Values of the flags that a command line itself has."""
    if {'-h', '--help'} & set(argv):  # which the parser itself shows
        return {}
    bare = copy.deepcopy(parser)
    for action in bare._actions:
        action.default, action.required = argparse.SUPPRESS, False
    return vars(bare.parse_args(argv))


def _is_on(value: Any) -> bool:
    """Whether a value does not just switch something off: 0 steps, '' for no split, loss weights of 0."""
    return any(value) if isinstance(value, (list, tuple)) else bool(value)


def _tuples(value: Any) -> Any:
    """A value of a file, whose sequences are as in Python."""
    if isinstance(value, Mapping):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class _RaisingParser(argparse.ArgumentParser):
    """Tells what is wrong as an error, not to a terminal."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f'{message[:1].upper()}{message[1:].rstrip(".")}.')


def args_of(flags: Mapping[str, Any]) -> Arguments:
    """Arguments from flags by name, with underscores, as :func:`parse_args` makes them from a command line. None and
    False unset what a recipe sets; values of ``model_kwargs`` arrive as they are.

    Raises:
        ConfigError: There is no such flag, or a value is not one that it takes.

    Example:
        >>> args_of({'model': 'resnet18', 'pct': 15, 'output': 'out', 'mixup': 1.}).pct
        15.0
    """
    from timm_sbs.training.options.flags import build_parser

    parser = build_parser(_RaisingParser)
    unset = {name for name, value in flags.items() if value is None or value is False} - {'pct', 'bytes'}
    args = parse_args(parser, _as_argv(flags, _known_flags(parser), 'The call of fit()'), unset)
    if isinstance(kwargs := flags.get(KWARGS), Mapping):
        setattr(args, KWARGS, dict(kwargs))
        args.given |= {KWARGS} if kwargs else set()
    return args


def args_yaml(args: argparse.Namespace) -> str:
    """All arguments as YAML that ``--config`` reads back."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(args).items() if name not in ('config', 'recipe', 'dry_run')}
    return yaml.safe_dump(values, default_flow_style=False)
