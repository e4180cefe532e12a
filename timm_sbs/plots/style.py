"""How pictures look, light and dark, and how they are written. Needs matplotlib, of the 'plots' extra."""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timm_sbs.common.errors import MissingExtraError, SbsError, short_reason

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler
except ImportError as e:
    raise MissingExtraError("Pictures need matplotlib: pip install 'timm_sbs[plots]'") from e

__all__ = ['COLOURS', 'THEMES', 'Figure', 'themed', 'save']

COLOURS = ('#2f6fde', '#e4572e', '#2a9d8f', '#b5179e', '#e9a820', '#6c757d')
THEMES = {'light': ('#ffffff', '#1f2328', '#d0d7de'), 'dark': ('#0d1117', '#e6edf3', '#30363d')}


@contextmanager
def themed(name: str) -> Iterator[None]:
    """Draw in a theme within the block.

    Raises:
        SbsError: There is no such theme.
    """
    if name not in THEMES:
        raise SbsError(f"Theme '{name}' does not exist. Choose {' or '.join(THEMES)}.")
    background, ink, lines = THEMES[name]
    with matplotlib.rc_context({
            'figure.facecolor': background, 'axes.facecolor': background, 'savefig.facecolor': background,
            'text.color': ink, 'axes.labelcolor': ink, 'xtick.color': ink, 'ytick.color': ink, 'axes.edgecolor': lines,
            'grid.color': lines, 'legend.facecolor': background, 'legend.edgecolor': lines, 'font.size': 9,
            'axes.spines.top': False, 'axes.spines.right': False, 'figure.constrained_layout.use': True,
            'axes.prop_cycle': cycler(color=COLOURS), 'svg.hashsalt': 'timm_sbs'}):
        yield


def save(figure: Figure, output: Path) -> None:
    """Write a picture in the format that its suffix names.

    Raises:
        SbsError: Its suffix is not a format, or it cannot be written.
    """
    try:
        figure.savefig(output, dpi=110, metadata={'Date': None} if output.suffix == '.svg' else None)
    except (OSError, ValueError) as e:
        raise SbsError(f"Cannot write '{output}': {short_reason(e)}") from e
