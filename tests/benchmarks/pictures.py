"""Pictures of the results files, for light and for dark pages: ``python tests/benchmarks/pictures.py`` draws them all.

Needs matplotlib, and measures nothing. Writes results/NAME.png and results/NAME_dark.png.
"""
import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from table_makers.imagenet import ANCHORS, NETWORKS, rows_of
from table_makers.sources import REPOSITORY, network_name, results_of

from timm_sbs.plots.plot import COLOURS, STYLE, save

DARK = {
    **dict.fromkeys(['figure.facecolor', 'axes.facecolor', 'savefig.facecolor', 'legend.facecolor'], '#0d1117'),
    **dict.fromkeys(['text.color', 'axes.labelcolor', 'xtick.color', 'ytick.color'], '#e6edf3'),
    **dict.fromkeys(['axes.edgecolor', 'grid.color', 'legend.edgecolor'], '#30363d')}
Points = Iterable[tuple[float, float]]
CIFAR_CURVES = {  # methods of frontier.json and accuracy_over_bytes.json: words and lines
    'rounding': ('ours, rounded and trained', 'o-'), 'rounding, untrained': ('ours, rounded, no training', 'o--'),
    'predictor': ('ours, predictors', 's-'), 'predictor, 3 bits': ('ours, predictors of 3 bits', 's--'),
    'NNCodec': ('NNCodec', '^-'), 'rounding + coding': ('rounding + coding', 'v-'),
    'onnxruntime int8': ('onnxruntime int8', 'D'), "NeRN's configuration": ("NeRN's configuration", 'P')}


def _curve(axis: Axes, points: Points, style: str, label: str, colour: str | None = None) -> None:
    mine = label.startswith('ours')
    if curve := sorted(points):
        axis.plot(*zip(*curve), style, label=label, color=colour, zorder=3 if mine else 2,
                  linewidth=2 if mine else 1, markersize=6 if mine else 4)


def _level(axis: Axes, value: float) -> None:
    axis.axhline(value, color='grey', linewidth=0.8, linestyle=':')
    axis.grid(alpha=0.5, which='both')


def draw_cifar10() -> Figure:
    """Accuracy over bytes of whole files: ours, and what others do."""
    ours, others = results_of('frontier'), results_of('accuracy_over_bytes')['networks']
    figure = Figure(figsize=(9, 4.4))
    axes = figure.subplots(1, len(others))
    for axis, (network, entry) in zip(axes, others.items()):
        points = [*(p for p in ours['points'] if p['network'] == network), *entry['points']]
        for index, (method, (words, style)) in enumerate(CIFAR_CURVES.items()):
            found = [(p['bytes'] / 1000, p['top1']) for p in points if p['method'] == method]
            _curve(axis, found, style, words, [*COLOURS, '#a0703c', '#d65db1'][index])
        for anchor in (a for a in ours['anchors'] if a['network'] == network):
            _anchor(axis, anchor['label'], anchor['bytes'] / 1000, anchor['top1'])
        size, top1 = (entry['original'][key] for key in ('bytes', 'top1'))
        _level(axis, top1)
        axis.set_xscale('log', base=2)
        axis.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
        axis.set(xlabel='whole file, kB', ylim=(top1 - 4, top1 + 0.5))
        axis.set_title(f'{network_name(network)} ({size / 1000:,.0f} kB, {top1:.2f} %)', fontsize=10)
    axes[0].set_ylabel('CIFAR-10 top-1, %')
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=4, loc='outside lower center')
    return figure


def draw_imagenet() -> Figure:
    """What networks for ImageNet keep. Left: accuracy, as the difference from each one's original; right: agreement."""
    figure = Figure(figsize=(9, 3.8))
    axes = figure.subplots(1, 2)
    for network, colour in zip(('resnet18', 'lite0'), COLOURS):
        (original, *rows), name = rows_of(network), NETWORKS[network]
        curves = {
            f'{name}, rounded': [row for row in rows if row['size'][-1] in 'kM'],
            f'{name}, a predictor': [row for row in rows if row['size'].endswith('pct')],
            f'{name}, NNCodec': [row for row in rows if row['size'].startswith('NNCodec')]}
        for (words, points), style in zip(curves.items(), ('o-', 's', '^--')):
            for axis, key, top in zip(axes, ('top1', 'agreement'), (original['validation']['top1'], 0)):
                if points:
                    _curve(axis, [(row['bytes'] / 1e6, row['validation'][key] - top) for row in points],
                           style, words, colour)
    for axis, level in zip(axes, (0, 100)):
        axis.set(xlabel='whole file, MB', xlim=(0.8, 4.6))
        _level(axis, level)
    for anchor in ANCHORS:
        _anchor(axes[0], anchor.name, anchor.bytes / 1e6, anchor.difference)
    axes[0].set(ylabel='top-1, points from the original', ylim=(-8, 1.5))
    axes[1].set(ylabel='agreement with the original, %', ylim=(78, 101))
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=5, loc='outside lower center')
    return figure


def _anchor(axis: Axes, name: str, size: float, top1: float) -> None:
    """What others report."""
    axis.plot(size, top1, 'x', color='grey')
    axis.annotate(name, (size, top1), fontsize=7, color='grey', xytext=(-12, 6), textcoords='offset points')


def draw_ablation() -> Figure:
    """Error of the weights at equal parameters, of every configuration."""
    figure = Figure(figsize=(9, 4.2))
    axes = figure.subplots(1, 2)
    for axis, network in zip(axes, ('resnet20', 'resnet56')):
        results = results_of(f'ablation_{network}')
        rows: list[tuple[str, Mapping[str, Any]]] = sorted(
            results['summary']['parameters'].items(), key=lambda item: -item[1]['error'])
        axis.errorbar([row['error'] for _, row in rows], [name for name, _ in rows],
                      xerr=[row['error_spread'] / 2 for _, row in rows], fmt='o', markersize=4, capsize=2)
        axis.set_xscale('log')
        axis.set_xlabel(f"error of the weights at {results['pct']} % of the parameters")
        axis.set_title(network_name(network), fontsize=10)
        axis.tick_params(axis='y', labelsize=8)
        axis.grid(alpha=0.5, which='both')
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axis.xaxis.set_minor_formatter(NullFormatter())
    return figure


def draw_spectrum() -> Figure:
    """Left: eigenvalues of tangent kernels and their theory; right: errors by frequency after runs of some steps."""
    results = results_of('spectrum')
    figure = Figure(figsize=(9, 3.6))
    left, *right = figure.subplots(1, 3)
    kernels = {key: value for key, value in results['tangent_kernels'].items() if isinstance(value, dict)}
    for index, (key, kernel) in enumerate(kernels.items()):
        cycles = [k / 2 for k in range(1, len(kernel['theory']) + 1)]
        left.loglog(cycles, [abs(v) for v in kernel['empirical']], color=COLOURS[index], label=key)
        left.loglog(cycles, [abs(v) for v in kernel['theory']], ':', color=COLOURS[index])
    left.set(xlabel='cycles over the path', ylim=(1e-7, 2))
    left.set_title('tangent kernel (dotted: theory)', fontsize=10)
    left.legend(fontsize=7, frameon=False)
    bands = dict(results['bands'])
    first = bands.pop('first_frequency_of_band')
    for axis, (name, rows) in zip(right, bands.items()):
        for index, row in enumerate(rows):
            shade = 0.25 + 0.75 * index / max(1, len(rows) - 1)
            axis.semilogx(first, row['errors'], color=COLOURS[0], alpha=shade, label=f"{row['step']:,} steps")
        axis.set(ylim=(0, 1.2), xlabel='cycles over the path')
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.5)
    right[0].set_ylabel('error in each octave')
    figure.legend(*right[0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=8, loc='outside lower center')
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    'accuracy_over_bytes': draw_cifar10, 'imagenet_over_bytes': draw_imagenet, 'ablation': draw_ablation,
    'spectrum': draw_spectrum}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=[*PICTURES], default=[*PICTURES])
    for name in parser.parse_args().only:
        for colours, suffix in (({}, ''), (DARK, '_dark')):
            with rc_context({**STYLE, **colours}):
                save(PICTURES[name](), REPOSITORY / 'tests' / 'benchmarks' / 'results' / f'{name}{suffix}.png')


if __name__ == '__main__':
    main()
