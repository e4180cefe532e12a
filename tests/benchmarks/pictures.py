"""Pictures of the results files of the benchmarks. Which one is drawn follows from what a file holds.

    python tests/benchmarks/pictures.py tests/benchmarks/results/spectrum.json spectrum.svg --theme dark
"""
import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm_sbs.common.errors import SbsError

try:
    from timm_sbs.plots.style import (
        COLOURS,
        THEMES,
        Figure,
        LogLocator,
        NullFormatter,
        StrMethodFormatter,
        save,
        themed,
    )
except SbsError as e:  # no matplotlib
    raise SystemExit(f'pictures.py: {e}') from e

__all__ = [
    'KINDS', 'draw_results', 'draw_accuracy_over_bytes', 'draw_frontier', 'draw_spectrum', 'draw_ablation',
    'draw_folding', 'draw_loading', 'draw_robustness',
]

Results = Mapping[str, Any]
FRONTIER = {  # methods of the frontier: words and lines
    'rounding': ('rounded, trained', 'o-'), 'rounding, untrained': ('rounded by second order', 'o--'),
    'generation': ('generated, 3 bits, with a rate', 's-'), 'shipped': ('generated, 5 bits', 's--')}


def draw_results(source: str | Path, output: str | Path, theme: str = 'light') -> str:
    """Draw a picture of a results file.

    Args:
        source: JSON file of tests/benchmarks/results.
        output: Picture to write; its suffix is the format (png, svg, pdf). It appears complete or not at all.
        theme: 'light' or 'dark'.

    Returns:
        The kind that was drawn, one of ``KINDS``.

    Raises:
        SbsError: The file cannot be read or has nothing for a picture, or the picture cannot be written.
    """
    try:
        results = json.loads(Path(source).read_text(encoding='utf-8'))
    except (OSError, ValueError) as e:
        raise SbsError(f"'{source}' cannot be read as JSON: {e}.") from e
    kind = next((name for name, (fits, _) in KINDS.items() if isinstance(results, dict) and fits(results)), None)
    if kind is None:
        raise SbsError(f"'{source}' is no results file with a picture. There are pictures of: {', '.join(KINDS)}.")
    with themed(theme):
        save(KINDS[kind][1](results), Path(output))
    return kind


def _has(*keys: str) -> Callable[[Results], bool]:
    return lambda results: all(key in results for key in keys)


def _networks_have(key: str) -> Callable[[Results], bool]:
    def fits(results: Results) -> bool:
        networks = results.get('networks')
        if not isinstance(networks, dict) or not networks:
            return False
        entries = [entry[0] if isinstance(entry, list) and entry else entry for entry in networks.values()]
        return all(isinstance(entry, dict) and key in entry for entry in entries)
    return fits


def draw_accuracy_over_bytes(results: Results) -> Figure:
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


def draw_frontier(results: Results) -> Figure:
    """Accuracy over bytes of whole files: a curve for each way to make them, and what others report."""
    networks = results['originals']
    figure = Figure(figsize=(9, 3.8))
    axes = figure.subplots(1, len(networks), squeeze=False)[0]
    for axis, (network, original) in zip(axes, networks.items()):
        for colour, (method, (words, style)) in zip(COLOURS, FRONTIER.items()):
            curve = sorted((p['bytes'] / 1000, p['top1']) for p in results['points']
                           if (p['network'], p['method']) == (network, method))
            mine = method == 'rounding'
            if curve:
                axis.plot(*zip(*curve), style, color=colour, label=words, zorder=3 if mine else 2,
                          linewidth=2.5 if mine else 1.2, markersize=7 if mine else 4)
        for anchor in results['anchors']:
            if anchor['network'] == network:
                axis.plot(anchor['bytes'] / 1000, anchor['top1'], 'x', color='grey')
                axis.annotate(anchor['label'], (anchor['bytes'] / 1000, anchor['top1']), fontsize=7, color='grey',
                              xytext=(-12, 6), textcoords='offset points')
        top1 = original['top1']
        axis.axhline(top1, color='grey', linewidth=0.8, linestyle=':')
        axis.set(xlabel='whole file, kB', ylim=(top1 - 4, top1 + 0.4))
        axis.set_title(f"ResNet-{network.removeprefix('resnet')} ({original['bytes'] / 1000:,.0f} kB, {top1:.2f} %)",
                       fontsize=10)
        axis.grid(alpha=0.5)
    axes[0].set_ylabel('CIFAR-10 top-1, %')
    axes[0].legend(loc='lower right', fontsize=8)
    return figure


def draw_spectrum(results: Results) -> Figure:
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


def draw_ablation(results: Results) -> Figure:
    """Left: error at equal parameters; right: error over bytes, a line for each that paths run over."""
    summary = results['summary']
    figure = Figure(figsize=(9, 4.2))
    left, right = figure.subplots(1, 2)
    rows: list[tuple[str, Mapping[str, Any]]] = sorted(
        summary.get('parameters', {}).items(), key=lambda item: -item[1]['error'])
    left.errorbar([row['error'] for _, row in rows], [name for name, _ in rows],
                  xerr=[row['error_spread'] / 2 for _, row in rows], fmt='o', markersize=4, capsize=2)
    left.set_xscale('log')
    left.set_xlabel('error of the weights')
    left.set_title(f"at {results['pct']} % of the parameters", fontsize=10)
    left.tick_params(axis='y', labelsize=8)
    budgets = [regime for regime in summary if regime.endswith(' bytes')]
    for name in sorted({name for regime in budgets for name in summary[regime]}):
        points = sorted((row['bytes'] / 1000, row['error'], row['error_spread'] / 2)
                        for row in (summary[b][name] for b in budgets if name in summary[b]))
        if len(points) > 1:
            sizes, errors, spreads = zip(*points)
            right.errorbar(sizes, errors, spreads, fmt='o-', markersize=4, capsize=2, label=f'paths: {name}')
    right.set_yscale('log')
    right.set_xlabel('whole file, kB')
    right.set_title('in whole files of equal bytes', fontsize=10)
    for axis in (left, right):
        axis.grid(alpha=0.5, which='both')
    for scale in (left.xaxis, right.yaxis):
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter(StrMethodFormatter('{x:g}'))
        scale.set_minor_formatter(NullFormatter())
    if budgets:
        right.legend(fontsize=8)
    return figure


def draw_folding(results: Results) -> Figure:
    """Error over the operations of loading, for each limit of places."""
    networks = results['networks']
    figure = Figure(figsize=(7, 3.2))
    axis = figure.add_subplot()
    for network, rows in networks.items():
        points = sorted((row['gflop'], row['error']) for row in rows)
        axis.plot(*zip(*points), 'o-', label=network)
        for row in rows:
            axis.annotate(f"{row['max_places'] or 'no limit'}", (row['gflop'], row['error']), fontsize=7,
                          xytext=(4, 4), textcoords='offset points')
    axis.set_xscale('log')
    axis.set_xlabel('GFLOP of generating the weights')
    axis.set_ylabel('error of the weights')
    axis.set_title('limits of places at equal parameters', fontsize=10)
    axis.grid(alpha=0.5)
    axis.legend(frameon=False)
    return figure


def draw_loading(results: Results) -> Figure:
    """Time of a full checkpoint's load, and of a first and a second load of each predictor."""
    rows: list[tuple[str, float]] = []
    for network, entry in results['networks'].items():
        rows.append((f'{network}, full', entry['full_ms']))
        for name, found in entry.items():
            if isinstance(found, dict) and 'first_ms' in found:
                rows += [(f'{network}, {name}, second', found['second_ms']),
                         (f'{network}, {name}, first', found['first_ms'])]
    rows.reverse()
    figure = Figure(figsize=(7, 0.8 + 0.22 * len(rows)))
    axis = figure.add_subplot()
    kinds = ('full', 'second', 'first')
    axis.barh([name for name, _ in rows], [ms for _, ms in rows],
              color=[COLOURS[kinds.index(name.rsplit(', ')[-1])] for name, _ in rows])
    axis.set_xscale('log')
    axis.set_xlabel('milliseconds to create the model')
    axis.tick_params(axis='y', labelsize=8)
    return figure


def draw_robustness(results: Results) -> Figure:
    """Accuracy of each network on clean and corrupted images, by corruption."""
    figure = Figure(figsize=(9, 3.8))
    axes = figure.subplots(1, len(results['rows']), squeeze=False, sharey=True)[0]
    for axis, (base, members) in zip(axes, results['rows'].items()):
        for name, found in members.items():
            means = {c: sum(row['top1'] for row in severities) / len(severities) for c, severities in found.items()}
            axis.plot([*means], [*means.values()], 'o-', markersize=3, linewidth=1, label=name)
        axis.set_title(base, fontsize=10)
        axis.tick_params(axis='x', rotation=90, labelsize=8)
        axis.grid(alpha=0.5)
        axis.legend(fontsize=7, frameon=False)
    axes[0].set_ylabel('top-1, %')
    return figure


# What can be drawn: whether a file has it, and how.
KINDS: dict[str, tuple[Callable[[Results], bool], Callable[[Results], Figure]]] = {
    'accuracy': (_networks_have('points'), draw_accuracy_over_bytes),
    'frontier': (_has('originals', 'points', 'anchors'), draw_frontier),
    'folding': (_networks_have('max_places'), draw_folding),
    'loading': (_networks_have('full_ms'), draw_loading),
    'spectrum': (_has('tangent_kernels', 'bands'), draw_spectrum),
    'ablation': (_has('summary', 'rows', 'distillation_steps'), draw_ablation),
    'robustness': (_has('summary', 'rows', 'albumentations'), draw_robustness),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', metavar='RESULTS.json', help='a file of tests/benchmarks/results')
    parser.add_argument('output', metavar='OUT', help='picture to write: .svg, .png or .pdf')
    parser.add_argument('--theme', choices=[*THEMES], default='light', help='(default: %(default)s)')
    args = parser.parse_args(argv)
    try:
        kind = draw_results(args.results, args.output, args.theme)
    except SbsError as e:
        print(f'pictures.py: {e}', file=sys.stderr)
        return 2
    print(f'wrote {args.output} ({kind})')
    return 0


if __name__ == '__main__':
    sys.exit(main())
