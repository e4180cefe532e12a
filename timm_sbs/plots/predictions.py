"""What two networks see in a photograph, for a picture of it. Needs no matplotlib."""
from dataclasses import dataclass
from pathlib import Path

__all__ = ['Photograph', 'Predictions']

Predictions = tuple[tuple[str, float], ...]  # names of classes and their probabilities, the most probable first


@dataclass(frozen=True)
class Photograph:
    """A shipped photograph, and what two networks see in it."""
    title: str
    source: str  # photographer and licence
    path: Path
    original: Predictions  # recorded, for the original's weights do not ship
    generated: Predictions
