"""Results of an artifact, and other information in config.json: plain dicts, of which a reader takes what it knows.

Nothing in them is ever an error. What is shown is looked at before: a number that is not one, or a text that cannot be
printed, counts as not recorded.
"""
import math
from collections.abc import Mapping
from typing import Any

__all__ = ['number', 'text', 'block']

MAX_TEXT = 256  # characters


def number(results: Mapping[str, Any], name: str, most: float = 1e15) -> float | None:
    """A recorded number from 0 to ``most``, or None."""
    value = results.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= most and math.isfinite(value) else None


def text(results: Mapping[str, Any], name: str) -> str | None:
    """A recorded text of one line, or None."""
    value = results.get(name)
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_TEXT else None


def block(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A dict among the results, such as those of the artifact that training started from; empty if there is none."""
    value = results.get(name)
    return value if isinstance(value, Mapping) else {}
