"""Pictures of artifacts and of results files, light or dark. Needs matplotlib, of the 'plots' extra."""
import csv
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import timm
import torch
from torch import Tensor

from timm_sbs.artifact import CONFIG_NAME, Artifact, load_artifact, read_config
from timm_sbs.errors import SbsError
from timm_sbs.files import replace_files
from timm_sbs.ordering import kernel_at_place
from timm_sbs.sizes import PARTS
from timm_sbs.targets import to_kernels

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter
except ImportError as e:
    raise SbsError("Pictures need matplotlib: pip install 'timm_sbs[plots]'") from e

__all__ = ['KINDS', 'plot']

COLOURS = ('#2f6fde', '#e4572e', '#2a9d8f', '#b5179e', '#e9a820', '#6c757d')
THEMES = {'light': ('#ffffff', '#1f2328', '#d0d7de'), 'dark': ('#0d1117', '#e6edf3', '#30363d')}
LONGEST_PATH = 512  # kernels that a picture shows


def plot(
        source: Union[str, Path],
        output: Union[str, Path],
        kind: Optional[str] = None,
        theme: str = 'light',
        original: Optional[Union[str, Path]] = None,
        layer: Optional[str] = None,
) -> str:
    """Draw a picture of an artifact or a results file.

    Args:
        source: Folder of an artifact or of a training run, or a JSON file of ``tests/benchmarks/results``.
        output: Picture to write; its suffix is the format (png, svg, pdf). It appears complete or not at all.
        kind: One of ``KINDS``; default: the first that the source has something for.
        theme: 'light' or 'dark'.
        original: Checkpoint of the original weights, for 'kernels'; default: timm's pretrained ones.
        layer: Generated weight that 'kernels' shows; default: the largest.

    Returns:
        The kind that was drawn.

    Raises:
        SbsError: The source has nothing for this kind, or the picture cannot be written.
    """
    source = Path(source)
    results = _read_results(source) if source.is_file() and source.suffix == '.json' else None
    suits = [name for name, (fits, _) in KINDS.items() if fits(source, results)]
    if kind and kind not in suits:
        raise SbsError(f"'{source}' has nothing for a picture of '{kind}'"
                       + (f", but for: {', '.join(suits)}." if suits else '.'))
    if not suits:
        raise SbsError(f"'{source}' is neither an artifact, nor a training run, nor a results file with a picture.")
    kind = kind or suits[0]
    with _theme(theme):
        figure = KINDS[kind][1](source, results, original=original, layer=layer)
        _save(figure, Path(output))
    return kind


def _read_results(path: Path) -> Dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as e:
        raise SbsError(f"'{path}' cannot be read as JSON: {e}.") from e
    return found if isinstance(found, dict) else {}


@contextmanager
def _theme(name: str) -> Iterator[None]:
    background, ink, lines = THEMES[name]
    with matplotlib.rc_context({
            'figure.facecolor': background, 'axes.facecolor': background, 'savefig.facecolor': background,
            'text.color': ink, 'axes.labelcolor': ink, 'xtick.color': ink, 'ytick.color': ink, 'axes.edgecolor': lines,
            'grid.color': lines, 'legend.facecolor': background, 'legend.edgecolor': lines, 'font.size': 9,
            'axes.spines.top': False, 'axes.spines.right': False, 'figure.constrained_layout.use': True,
            'axes.prop_cycle': matplotlib.cycler(color=COLOURS), 'svg.hashsalt': 'timm_sbs'}):
        yield


def _save(figure: Figure, output: Path) -> None:
    from io import BytesIO
    kind, buffer = output.suffix.lstrip('.').lower() or 'png', BytesIO()
    if kind not in figure.canvas.get_supported_filetypes():
        raise SbsError(f"'{output}': pictures of type '{kind}' cannot be written. Use .png, .svg or .pdf.")
    figure.savefig(buffer, format=kind, dpi=110, metadata={'Date': None} if kind == 'svg' else None)
    try:
        replace_files({output: buffer.getvalue()})
    except OSError as e:
        raise SbsError(f"Cannot write '{output}': {e}.") from e


def _ledger(source: Path, *_: Any, **__: Any) -> Figure:
    """Where the bytes of both files are."""
    config, _ = read_config(source)
    parts = {**{part: config.sizes[part] for part in PARTS}, CONFIG_NAME: (source / CONFIG_NAME).stat().st_size}
    total = sum(parts.values())
    figure = Figure(figsize=(7, 2.2))
    axis, start = figure.add_subplot(), 0
    for part, size in parts.items():
        axis.barh([0], [size / 1000], left=start / 1000, height=0.6, label=f'{part} {size / 1000:,.1f} kB')
        start += size
    axis.set_yticks([])
    axis.spines['left'].set_visible(False)
    axis.set_xlabel('kB')
    axis.set_title(f"{config.base}: {total / 1000:,.1f} kB, "
                   f"{config.sizes['original'] / total:.1f} times smaller than float32", fontsize=10)
    figure.legend(ncols=3, frameon=False, loc='outside lower center', fontsize=8)
    return figure


def _original_weight(artifact: Artifact, name: str, checkpoint: Optional[Union[str, Path]]) -> Tensor:
    given = {'checkpoint_path': str(checkpoint)} if checkpoint else {'pretrained': True}
    try:
        model = timm.create_model(artifact.config.base, **artifact.config.base_args, **given)
        return model.get_parameter(name).detach()
    except Exception as e:  # whatever timm and the Hub raise
        raise SbsError(f"The original weights of '{artifact.config.base}' are not to be had: {e}. Name their "
                       f'checkpoint with --original.') from e


def _kernels(
        source: Path,
        _: Any,
        original: Optional[Union[str, Path]] = None,
        layer: Optional[str] = None,
) -> Figure:
    """Kernels of a layer in the order in which they are generated: original, generated, and their difference."""
    artifact = load_artifact(source)
    specs = {spec.name: index for index, spec in enumerate(artifact.specs)}
    layer = layer or max(artifact.specs, key=lambda spec: spec.num_kernels).name
    if layer not in specs:
        raise SbsError(f"'{layer}' is no generated weight of '{source}'. Its first is '{next(iter(specs))}'.")
    spec, permutation = artifact.specs[specs[layer]], artifact.permutations[specs[layer]]
    places = torch.from_numpy(kernel_at_place(permutation, spec, artifact.config.ordering))[:LONGEST_PATH]
    expected = to_kernels(_original_weight(artifact, layer, original), spec)[places]
    found = to_kernels(artifact.state_dict()[layer].cpu(), spec)[places]
    limit = float(expected.abs().quantile(0.99))
    figure = Figure(figsize=(7, 3.2))
    rows = {'original': expected, 'generated': found, 'difference': found - expected}
    for index, (title, kernels) in enumerate(rows.items()):
        axis = figure.add_subplot(3, 1, index + 1)
        axis.imshow(kernels.T.numpy(), aspect='auto', cmap='RdBu', vmin=-limit, vmax=limit, interpolation='nearest')
        axis.set_ylabel(title)
        axis.set_yticks([])
        if index < 2:
            axis.set_xticks([])
    axis.set_xlabel(f"the first {len(places)} of {spec.num_kernels:,} kernels of {layer}, in the order of generation")
    return figure


def _curves(source: Path, *_: Any, **__: Any) -> Figure:
    """Loss and accuracy of a training run."""
    with open(source / 'summary.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots(1, 2)
    offset, last = 0, 0
    phases = list(dict.fromkeys(row['phase'] for row in rows))
    for phase in phases:
        mine = [row for row in rows if row['phase'] == phase]
        for axis, column in zip(axes, ('loss', 'top1')):
            points = [(offset + int(row['step']), float(row[column])) for row in mine if row.get(column)]
            if points:
                axis.plot(*zip(*points), 'o-', markersize=3, label=phase)
        last = max((int(row['step']) for row in mine), default=0)
        offset += last
    axes[0].set_yscale('log')
    for axis, title in zip(axes, ('loss', 'top-1, %')):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel('step')
        axis.grid(alpha=0.5)
    axes[0].legend(frameon=False)
    return figure


def _accuracy_over_bytes(_: Path, results: Mapping[str, Any], **__: Any) -> Figure:
    networks = results['networks']
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots(1, len(networks), squeeze=False)[0]
    for axis, (network, entry) in zip(axes, networks.items()):
        for method in dict.fromkeys(point['method'] for point in entry['points']):
            curve = sorted((p['bytes'] / 1000, p['top1']) for p in entry['points'] if p['method'] == method)
            mine = method == 'ours'
            axis.plot(*zip(*curve), 'o-' if len(curve) > 1 else 'o', label=method, zorder=3 if mine else 2,
                      linewidth=2.5 if mine else 1.2, markersize=7 if mine else 4)
        size, top1 = (entry['original'][key] for key in ('bytes', 'top1'))
        axis.axhline(top1, color='grey', linewidth=0.8, linestyle=':')
        axis.set_xscale('log', base=2)
        axis.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
        axis.set_ylim(top1 - 4, top1 + 0.4)
        axis.set_xlabel('whole file, kB')
        axis.set_title(f"ResNet-{network.removeprefix('resnet')} ({size / 1000:,.0f} kB, {top1:.2f} %)", fontsize=10)
        axis.grid(alpha=0.5, which='both')
    axes[0].set_ylabel('CIFAR-10 top-1, %')
    axes[0].legend(loc='lower right', fontsize=8)
    return figure


def _spectrum(_: Path, results: Mapping[str, Any], **__: Any) -> Figure:
    """Left: eigenvalues of tangent kernels and their theory; right: errors by frequency as training goes on."""
    figure = Figure(figsize=(9, 3.6))
    left, *right = figure.subplots(1, 3)
    kernels = {key: value for key, value in results['tangent_kernels'].items() if isinstance(value, dict)}
    for index, (key, kernel) in enumerate(kernels.items()):
        cycles = [k / 2 for k in range(1, len(kernel['theory']) + 1)]
        left.loglog(cycles, [abs(v) for v in kernel['empirical']], color=COLOURS[index], label=key)
        left.loglog(cycles, [abs(v) for v in kernel['theory']], ':', color=COLOURS[index])
    left.set_xlabel('cycles over the path')
    left.set_title('tangent kernel (dotted: theory)', fontsize=10)
    left.set_ylim(1e-7, 2)
    left.legend(fontsize=7, frameon=False)
    bands = dict(results['bands'])
    first = bands.pop('first_frequency_of_band')
    for axis, (name, rows) in zip(right, bands.items()):
        for index, row in enumerate(rows):
            shade = 0.25 + 0.75 * index / max(1, len(rows) - 1)
            axis.semilogx(first, row['errors'], color=COLOURS[0], alpha=shade, label=f"step {row['step']:,}")
        axis.set_ylim(0, 1.2)
        axis.set_xlabel('cycles over the path')
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.5)
    right[0].set_ylabel('error in each octave')
    figure.legend(*right[0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=8, loc='outside lower center')
    return figure


def _ablation(_: Path, results: Mapping[str, Any], **__: Any) -> Figure:
    """Left: error at equal parameters; right: error over bytes for each granularity."""
    summary = results['summary']
    figure = Figure(figsize=(9, 4.2))
    left, right = figure.subplots(1, 2)
    rows: List[Tuple[str, Mapping[str, Any]]] = sorted(
        summary.get('parameters', {}).items(), key=lambda item: -item[1]['error'])
    names, errors = [name for name, _ in rows], [row['error'] for _, row in rows]
    left.barh(names, errors, xerr=[row['error_spread'] / 2 for _, row in rows], color=COLOURS[0])
    left.set_xlabel('error of the weights at equal parameters')
    left.tick_params(axis='y', labelsize=7)
    budgets = [regime for regime in summary if regime.endswith(' bytes')]
    for name in dict.fromkeys(name for regime in budgets for name in summary[regime]):
        points = sorted((summary[b][name]['bytes'] / 1000, summary[b][name]['error'])
                        for b in budgets if name in summary[b])
        right.plot(*zip(*points), 'o-', markersize=4, label=name)
    right.set_xlabel('whole file, kB')
    right.set_title('error of the weights at equal bytes', fontsize=10)
    right.grid(alpha=0.5)
    if budgets:
        right.legend(fontsize=8)
    return figure


def _has(*keys: str) -> Callable[[Path, Optional[Mapping[str, Any]]], bool]:
    return lambda source, results: bool(results) and all(key in results for key in keys)


def _has_points(source: Path, results: Optional[Mapping[str, Any]]) -> bool:
    networks = (results or {}).get('networks')
    return isinstance(networks, dict) and all('points' in entry for entry in networks.values())


def _is_artifact(source: Path, results: Any) -> bool:
    return (source / CONFIG_NAME).is_file()


# What can be drawn: whether a source has it, and how.
KINDS: Dict[str, Tuple[Callable[..., bool], Callable[..., Figure]]] = {
    'ledger': (_is_artifact, _ledger),
    'kernels': (_is_artifact, _kernels),
    'curves': (lambda source, _: (source / 'summary.csv').is_file(), _curves),
    'accuracy': (_has_points, _accuracy_over_bytes),
    'spectrum': (_has('tangent_kernels', 'bands'), _spectrum),
    'ablation': (_has('summary', 'rows'), _ablation),
}
