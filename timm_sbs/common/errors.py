"""Errors that users of timm_sbs may want to catch. Each message says what was wrong, where, and what to do."""
import difflib
from collections.abc import Iterable

__all__ = [
    'SbsError', 'ConfigError', 'TargetError', 'ArtifactError', 'MissingExtraError', 'did_you_mean', 'printable',
    'short_reason']


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to append to a message, or '' where no known name is like it."""
    return ''.join(f" Did you mean '{near}'?" for near in difflib.get_close_matches(name, list(known), 1))


def printable(text: str, most: int = 1000) -> str:
    """A text that may come from anybody, for a terminal: in one line, control characters escaped, and what is longer
    than ``most`` characters without its middle.

    Example:
        >>> printable('red: \\x1b[31m')
        'red: \\\\x1b[31m'
    """
    gap = ' ... '
    if len(text) > 4 * most:  # before millions of characters are looked at one by one
        text = f'{text[:most]}{gap}{text[-most:]}'
    line = ' '.join(part.strip(' \t') for part in text.strip().splitlines())
    line = ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in line)
    half = (most - len(gap)) // 2
    return line if len(line) <= most else f'{line[:half]}{gap}{line[-half:]}'


def short_reason(error: BaseException) -> str:
    """Another library's message in one line, for one of ours to quote."""
    return printable(' '.join(str(error).split()), 300)


class SbsError(Exception):
    """Base of all errors that timm_sbs raises on purpose. Their messages are :func:`printable`."""

    def __init__(self, message: str = '') -> None:
        super().__init__(printable(message))


class ConfigError(SbsError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class TargetError(SbsError, ValueError):
    """A model has no weights to generate, or a weight does not have the shape it should have."""


class ArtifactError(SbsError):
    """An artifact (config.json and model.safetensors) is missing, damaged, or does not fit its base model."""


class MissingExtraError(SbsError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
