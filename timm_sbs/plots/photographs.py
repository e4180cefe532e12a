"""The demo's photographs, and what two networks see in them."""
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from timm_sbs.plots.predictions import Photograph
from timm_sbs.plots.style import COLOURS, Axes, Figure, save, themed

__all__ = ['plot_photographs']


def plot_photographs(photographs: Sequence[Photograph], output: str | Path, theme: str = 'light') -> None:
    """Draw each photograph beside the five classes that original and generated network find most probable.

    Raises:
        SbsError: The picture cannot be written.

    Example:
        >>> from timm_sbs.cli.demo_photographs import classify_photographs
        >>> plot_photographs(classify_photographs()[0], 'photographs.png')
    """
    with themed(theme):
        figure = Figure(figsize=(8, 2.1 * len(photographs)))
        axes = figure.subplots(len(photographs), 2, squeeze=False, width_ratios=(1, 1.5))
        for (picture, bars), photograph in zip(axes, photographs):
            picture.imshow(Image.open(photograph.path))
            picture.set_axis_off()
            _draw_bars(bars, photograph)
        axes[0, 1].legend(frameon=False, loc='lower right')
        axes[-1, 1].set_xlabel('probability, %')
        save(figure, Path(output))


def _draw_bars(axis: Axes, photograph: Photograph) -> None:
    """Classes of either network, the original's most probable on top; what it does not have among its five is 0."""
    sides = [('original', dict(photograph.original)), ('generated', dict(photograph.generated))]
    names = list(dict.fromkeys([*sides[0][1], *sides[1][1]]))
    for index, ((label, found), colour) in enumerate(zip(sides, COLOURS)):
        places = [row + (index - 0.5) * 0.36 for row in range(len(names))]
        axis.barh(places, [100 * found.get(name, 0.) for name in names], 0.34, color=colour, label=label)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
