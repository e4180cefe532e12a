"""How pictures look, light and dark, and how they are written. Needs matplotlib, of the 'plots' extra."""
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from timm_sbs.common.errors import MissingExtraError, SbsError
from timm_sbs.common.files import replace_files

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
except ImportError as e:
    raise MissingExtraError("Pictures need matplotlib: pip install 'timm_sbs[plots]'") from e

__all__ = [
    'COLOURS', 'THEMES', 'Axes', 'Figure', 'LogLocator', 'NullFormatter', 'StrMethodFormatter', 'themed', 'save',
]

COLOURS = ('#2f6fde', '#e4572e', '#2a9d8f', '#b5179e', '#e9a820', '#6c757d')
THEMES = {'light': ('#ffffff', '#1f2328', '#d0d7de'), 'dark': ('#0d1117', '#e6edf3', '#30363d')}


@contextmanager
def themed(name: str) -> Iterator[None]:
    """Draw like this within the block.

    Raises:
        SbsError: There is no such theme.
    """
    if name not in THEMES:
        raise SbsError(f"There is no theme '{name}', but: {', '.join(THEMES)}.")
    background, ink, lines = THEMES[name]
    with matplotlib.rc_context({
            'figure.facecolor': background, 'axes.facecolor': background, 'savefig.facecolor': background,
            'text.color': ink, 'axes.labelcolor': ink, 'xtick.color': ink, 'ytick.color': ink, 'axes.edgecolor': lines,
            'grid.color': lines, 'legend.facecolor': background, 'legend.edgecolor': lines, 'font.size': 9,
            'axes.spines.top': False, 'axes.spines.right': False, 'figure.constrained_layout.use': True,
            'axes.prop_cycle': cycler(color=COLOURS), 'svg.hashsalt': 'timm_sbs'}):
        yield


def save(figure: Figure, output: Path) -> None:
    """Write a picture, complete or not at all.

    Raises:
        SbsError: Its suffix is no format, or it cannot be written.
    """
    kind, buffer = output.suffix.lstrip('.').lower() or 'png', BytesIO()
    if kind not in figure.canvas.get_supported_filetypes():
        raise SbsError(f"'{output}': pictures of type '{kind}' cannot be written. Use .png, .svg or .pdf.")
    figure.savefig(buffer, format=kind, dpi=110, metadata={'Date': None} if kind == 'svg' else None)
    try:
        replace_files({output: buffer.getvalue()})
    except OSError as e:
        raise SbsError(f"Cannot write '{output}': {e}.") from e
