"""One function for all pictures of an artifact or a training run."""
from collections.abc import Callable
from os.path import expanduser
from pathlib import Path

from timm_sbs.artifact.files import CONFIG_NAME
from timm_sbs.common.errors import SbsError
from timm_sbs.plots.artifacts import SUMMARY, draw_curves, draw_kernels, draw_ledger
from timm_sbs.plots.style import Figure, save, themed

__all__ = ['KINDS', 'plot']

# What can be drawn: the file that a folder must have for it, and how.
KINDS: dict[str, tuple[str, Callable[..., Figure]]] = {
    'ledger': (CONFIG_NAME, draw_ledger), 'kernels': (CONFIG_NAME, draw_kernels), 'curves': (SUMMARY, draw_curves)}


def plot(
        source: str | Path,
        output: str | Path,
        kind: str | None = None,
        theme: str = 'light',
        original: str | Path | None = None,
        layer: str | None = None,
) -> str:
    """Draw a picture of an artifact or of a training run.

    Args:
        source: Folder of an artifact or of a training run.
        output: Picture to write; its suffix is the format (png, svg, pdf).
        kind: One of ``KINDS``; default: the first that the source has something for.
        theme: 'light' or 'dark'.
        original: Checkpoint of the original weights, for 'kernels'; default: timm's pretrained ones.
        layer: Generated or rounded weight that 'kernels' shows; default: the largest.

    Returns:
        The kind that was drawn.

    Raises:
        SbsError: The source has nothing for this kind, or the picture cannot be written.
    """
    source, output = Path(expanduser(source)), Path(expanduser(output))
    suitable = [name for name, (file, _) in KINDS.items() if (source / file).is_file()]
    if not suitable:
        raise SbsError(f"'{source}' is neither an artifact nor a training run.")
    kind = kind or suitable[0]
    if kind not in suitable:
        raise SbsError(f"'{kind}' cannot be drawn from '{source}', but {' and '.join(suitable)} can.")
    with themed(theme):
        save(KINDS[kind][1](source, original=original, layer=layer), output)
    return kind
