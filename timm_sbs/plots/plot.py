"""Pictures of an artifact (the bytes of its parts, kernels along their path) and curves of a training run."""
import csv
import io
from collections.abc import Callable
from os.path import expanduser
from pathlib import Path
from typing import Any

import torch
from timm.models import is_model_pretrained
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.files import CONFIG_NAME
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.artifact.ledger import shown
from timm_sbs.artifact.original import load_original
from timm_sbs.common.errors import MissingExtraError, SbsError, printable, short_reason
from timm_sbs.common.files import read_file
from timm_sbs.predictor.base_model import canonical_args
from timm_sbs.predictor.ordering import kernel_at_position
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.predictor.tokens import to_kernels

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler
except ImportError as e:
    raise MissingExtraError("Plots need matplotlib: pip install 'timm_sbs[plots]', or '.[plots]' in a checkout") from e

__all__ = ['COLOURS', 'KINDS', 'STYLE', 'draw_curves', 'draw_kernels', 'draw_ledger', 'plot', 'save']

LONGEST_PATH = 512  # kernels that a picture shows
MOST_PHASES = 64
SUMMARY, MAX_SUMMARY_BYTES = 'summary.csv', 4 << 20  # of a training run
MOST_COLUMNS = 64  # of it; each row has a place for every one
COLOURS = ('#2f6fde', '#e4572e', '#2a9d8f', '#b5179e', '#e9a820', '#6c757d')
INK, LINES = '#1f2328', '#d0d7de'
STYLE: dict[Any, Any] = {  # of matplotlib
    'text.color': INK, 'axes.labelcolor': INK, 'xtick.color': INK, 'ytick.color': INK, 'axes.edgecolor': LINES,
    'grid.color': LINES, 'legend.edgecolor': LINES, 'font.size': 9, 'axes.spines.top': False,
    'axes.spines.right': False, 'figure.constrained_layout.use': True, 'axes.prop_cycle': cycler(color=COLOURS),
    'svg.hashsalt': 'timm_sbs'}


def draw_ledger(source: Path, **_: object) -> Figure:
    """Bytes of each part of both files."""
    artifact = load_artifact(source)
    ledger = artifact.ledger()
    total = ledger['total']
    figure = Figure(figsize=(7, 2.2))
    axis, start = figure.add_subplot(), 0
    for part, size in shown(ledger).items():
        axis.barh([0], [size / 1000], left=start / 1000, height=0.6, label=f'{part} {size / 1000:,.1f} kB')
        start += size
    axis.set_yticks([])
    axis.spines['left'].set_visible(False)
    axis.set_xlabel('kB')
    axis.set_title(f"{artifact.base.name}: {total / 1000:,.1f} kB, "
                   f"{ledger['original'] / total:.1f} times smaller than float32", fontsize=10)
    figure.legend(ncols=3, frameon=False, loc='outside lower center', fontsize=8)
    return figure


def _original_weight(artifact: Artifact, name: str, checkpoint: str | Path | None) -> Tensor:
    """Of the given checkpoint, else of timm's weights. The folder may come from anybody: what it says of a checkpoint
    is not looked at."""
    base = artifact.base
    model, args = base.name, canonical_args(base.args, base.pretrained_cfg)
    if checkpoint is None and is_model_pretrained(tagged := f"{model}.{base.pretrained_cfg.get('tag')}"):
        model = tagged
    try:
        return load_original(model, str(checkpoint or ''), args).get_parameter(name).detach()
    except SbsError as e:
        raise SbsError(f'{e} The flag for a file of the original weights is --original FILE.') from e


def draw_kernels(source: Path, original: str | Path | None = None, layer: str | None = None) -> Figure:
    """Kernels of a layer along their path, or in the order of the filters where they are rounded: original, generated
    or rounded, and the difference."""
    artifact = load_artifact(source)
    generator = artifact.generator
    rounded = specs_from_names(tuple(artifact.rounded), artifact.base.state, artifact.base.name)
    specs = {spec.name: spec for spec in (*generator.specs, *rounded)}
    name = layer or max(generator.specs or rounded, key=lambda spec: spec.num_kernels).name
    if name not in specs:
        raise SbsError(f"'{name}' is neither a generated nor a rounded weight of '{source}'. The first of these is "
                       f"'{next(iter(specs))}'.")
    spec, kind, order = specs[name], 'rounded', torch.arange(specs[name].num_kernels)
    if name in generator.names:
        permutation = generator.permutations[generator.names.index(name)]
        kind, order = 'generated', torch.from_numpy(kernel_at_position(permutation, spec, generator.config.ordering))
    order = order[:LONGEST_PATH]
    expected = to_kernels(_original_weight(artifact, name, original), spec)[order]
    found = to_kernels(artifact.state_dict()[name].cpu(), spec)[order]
    limit = float(expected.abs().quantile(0.99))
    figure = Figure(figsize=(7, 3.2))
    axes = figure.subplots(3, 1)
    for axis, title, kernels in zip(axes, ('original', kind, 'difference'), (expected, found, found - expected)):
        axis.imshow(kernels.T.numpy(), aspect='auto', cmap='RdBu', vmin=-limit, vmax=limit, interpolation='nearest')
        axis.set_ylabel(title)
        axis.set_yticks([])
        if title != 'difference':
            axis.set_xticks([])
    where = 'along the path' if kind == 'generated' else 'filter by filter'
    axes[-1].set_xlabel(f'the first {len(order)} of {spec.num_kernels:,} kernels of {name}, {where}')
    return figure


def draw_curves(source: Path, **_: object) -> Figure:
    """Loss of a training run over its optimization steps, and agreement on held-out images over time, by phase."""
    text = (read_file(source / SUMMARY, MAX_SUMMARY_BYTES) or b'').decode('utf-8', 'replace')
    try:
        rows = csv.DictReader(io.StringIO(text, newline=''))
        if len(rows.fieldnames or ()) > MOST_COLUMNS:
            raise ValueError(f'it has more than {MOST_COLUMNS} columns')
        return _curves(list(rows))
    except (csv.Error, KeyError, TypeError, ValueError, OverflowError) as e:
        raise SbsError(f"'{source / SUMMARY}' is not that of a training run: {short_reason(e)}") from e


def _curves(rows: list[dict[str, str]]) -> Figure:
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots(1, 2)
    start = 0
    phases = list(dict.fromkeys(row['phase'] for row in rows))[:MOST_PHASES]
    for index, phase in enumerate(phases):
        mine = [row for row in rows if row['phase'] == phase]
        losses: list[tuple[float, float]] = [
            (start + int(row['step']), float(row['loss'])) for row in mine if row['loss']]
        agreements = [(float(row['seconds']) / 60, float(row['holdout_agreement']))
                      for row in mine if row['holdout_agreement']]
        for axis, points in zip(axes, (losses, agreements)):
            if points:
                axis.plot(*zip(*points), 'o-', markersize=3, label=_label(phase), color=f'C{index}')
        start += max(int(row['step']) for row in mine)
    axes[0].set_yscale('log')
    for axis, title, unit in zip(axes, ('loss', 'agreement, %'), ('optimization step', 'minutes')):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit)
        axis.grid(alpha=0.5)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    return figure


def _label(text: str) -> str:
    """A text that matplotlib does not take for a formula."""
    return printable(text, 40).replace('$', r'\$')


# What can be drawn: the file that a folder must have for it, and how.
KINDS: dict[str, tuple[str, Callable[..., Figure]]] = {
    'ledger': (CONFIG_NAME, draw_ledger), 'kernels': (CONFIG_NAME, draw_kernels), 'curves': (SUMMARY, draw_curves)}


def plot(
        source: str | Path,
        output: str | Path,
        kind: str | None = None,
        original: str | Path | None = None,
        layer: str | None = None,
) -> str:
    """Draw a picture of an artifact or of a training run.

    Args:
        source: Folder of an artifact or of a training run.
        output: Picture to write; its suffix is the format (png, svg, pdf).
        kind: One of ``KINDS``; default: the first that the source has something for.
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
    with matplotlib.rc_context(STYLE):
        save(KINDS[kind][1](source, original=original, layer=layer), output)
    return kind


def save(figure: Figure, output: Path) -> None:
    """Write a picture in the format that its suffix names.

    Raises:
        SbsError: Its suffix is not a format, or it cannot be written.
    """
    try:
        figure.savefig(output, dpi=110, metadata={'Date': None} if output.suffix == '.svg' else None)
    except (OSError, ValueError) as e:
        raise SbsError(f"Cannot write '{output}': {short_reason(e)}") from e
