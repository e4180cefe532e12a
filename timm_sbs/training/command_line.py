"""The trainer's command line: tyro makes it, its help and its errors from the tree of settings."""
import argparse
import ast
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from timm_sbs.common.fields import name_of
from timm_sbs.training.flat_settings import read_yaml, settings_fields, settings_of
from timm_sbs.training.settings import Settings

__all__ = ['parse']

SHORT = {'config': '-c', 'batch_size': '-b', 'workers': '-j'}
DESCRIPTION = """\
Fit a predictor to the weights of a timm CNN, or round these, and write an artifact that timm loads.

Without images a predictor is fitted to the weights alone. With images, which need no labels, errors are then made small
where they change predictions, and the model is trained to predict what the original predicts.

    timm-sbs train --model resnet18 --pct 15 --output out/resnet18
    timm-sbs train --model resnet18 --bytes 3M --images photos --output out/resnet18
    timm-sbs train --config cifar10 --model resnet20_cifar10 --dataset torch/cifar10 --data-dir data --output out
    accelerate launch -m timm_sbs.train --model resnet18 --data-free --output out/resnet18

The last line is for several processes or GPUs. Then, in Python:

    import timm, timm_sbs
    model = timm.create_model('local-dir:out/resnet18', pretrained=True)
"""


@dataclasses.dataclass(frozen=True)
class _Command:
    """The command

    Attributes:
        config: YAML file of settings, as a run writes it, or the name of one that ships; flags overrule it.
        dry_run: Print what happens to each weight and the size of the artifact, and stop.
    """
    config: str | None = None
    dry_run: bool = False


def parse(argv: Sequence[str]) -> tuple[Settings, bool]:
    """Settings from a command line (defaults, the file of --config, and the flags, each overruling the one before), and
    whether it asks for a dry run.

    Exits as argparse does, after --help and where an argument cannot be parsed.

    Raises:
        ConfigError: A value is out of range, or two exclude each other.

    Example:
        >>> parse(['--model', 'resnet18', '--bytes', '64k', '--output', 'out'])[0].target.max_bytes
        64000
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument('-c', '--config')
    config = first.parse_known_args(argv)[0].config
    settings = settings_of(read_yaml(config), config) if config else Settings()
    views = {name: _view(part) for name, part in {'command': _Command(), **vars(settings)}.items()}
    root = dataclasses.make_dataclass('Train', [
        (name, type(view), dataclasses.field(default=view)) for name, view in views.items()])
    found: Any = tyro.cli(
        root, args=list(argv), prog='timm-sbs train', description=DESCRIPTION,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff))
    given = {}
    for part, leaf in settings_fields():
        value: Any = getattr(getattr(found, part), leaf.name, None)  # None: it has no flag
        if value != getattr(views[part], leaf.name, None):
            given[name_of(leaf)] = _as_mapping(value) if leaf.name == 'model_kwargs' else value
    return settings_of(given, 'The command line', settings), found.command.dry_run


def _view(part: Any) -> Any:
    """A part of the settings as tyro is to see it: its fields that have a flag, with their help."""
    hints, help_of = get_type_hints(type(part)), docstring_parser.parse(type(part).__doc__ or '')
    texts = {text.arg_name: text.description or '' for text in help_of.params}
    fields = []
    for leaf in dataclasses.fields(part):
        if not leaf.metadata.get('flag', True):
            continue
        value, hint, name = getattr(part, leaf.name), hints[leaf.name], name_of(leaf)
        if isinstance(value, dict):
            value, hint = tuple(f'{key}={text}' for key, text in value.items()), tuple[str, ...]
        fields.append((leaf.name, Annotated[hint, tyro.conf.arg(
            name=name, prefix_name=False, help=texts[leaf.name].replace('\n', ' '), metavar=_metavar(hint),
            aliases=(SHORT[name],) if name in SHORT else None,
            help_behavior_hint=_default_words(value))],
            dataclasses.field(default=value)))
    namespace = {'__doc__': help_of.short_description}
    return dataclasses.make_dataclass(type(part).__name__, fields, frozen=True, namespace=namespace)()


def _default_words(value: Any) -> str:
    """What the help says of a default; nothing where the text itself does, or where it means 'none'."""
    words = ' '.join(map(str, value)) if isinstance(value, tuple) else str(value)
    return '' if value is None or value is False or not words else f'(default: {words})'


def _metavar(hint: Any) -> str | None:
    """What stands for a value in the help, where tyro would show how it is typed."""
    names = {int: 'N', float: 'X', str: 'TEXT'}
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    if get_origin(hint) is tuple:
        return f'{names[kinds[0]]} ...'
    return names.get(kinds[-1])


def _as_mapping(pairs: Sequence[str]) -> dict[str, Any]:
    """Pairs 'name=value', whose values are Python's where they can be, as timm's ``--model-kwargs`` has them."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition('=')
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found
