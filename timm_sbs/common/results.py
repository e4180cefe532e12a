"""Results of an artifact, and other information in config.json: plain dicts, of which a reader takes what it knows.

Nothing in them is ever an error. What is shown is looked at before: a number that is not one, or a text that cannot be
printed, counts as not recorded.
"""
import math
from collections.abc import Mapping
from typing import Any

__all__ = ['EARLIER', 'number', 'text', 'earlier', 'with_short_history']

EARLIER = ('started_from', 'before_quantization')  # results of the artifact that training or rounding started from
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


def earlier(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Recorded results of an earlier artifact, see :data:`EARLIER`; empty if there are none."""
    value = results.get(name)
    return value if isinstance(value, Mapping) else {}


def with_short_history(results: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of results with one level of earlier ones: what is older is left out."""
    return {name: {key: inner for key, inner in value.items() if key not in EARLIER}
            if name in EARLIER and isinstance(value, Mapping) else value for name, value in results.items()}
