"""Picture of results/imagenet_resnet18.json: what ResNet-18 keeps, over the bytes of the whole file.

    python tests/benchmarks/imagenet_over_bytes.py

Writes results/imagenet_over_bytes.png, and the same for dark pages. Measures nothing.
"""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_sbs.plots.style import THEMES, Figure, save, themed

RESULTS = Path(__file__).parent / 'results'


def curves(results: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float]]]:
    """Megabytes, top-1 and agreement in per cent, by method, smaller files first.

    Of rounding, the rows with a limit of levels are left out: those without one keep more in fewer bytes.
    """
    def point(row: Mapping[str, Any], figures: Mapping[str, Any]) -> tuple[float, float, float]:
        return row['bytes'] / 1e6, figures['validation']['top1'], figures['validation']['agreement']

    found = {words: [point(row, row) for row in results['artifacts']
                     if row['name'].startswith('sbs_') and ('pct' in row['name']) == generated]
             for words, generated in (('ours, rounded', False), ('ours, generated', True))}
    for how, words in (('second order', 'rounding by second order'), ('nearest', 'rounding to the nearest')):
        found[f'{words}, corrected'] = [
            point(row, row['corrected']) for row in results['coded'] if row['how'] == how]
    found['NNCodec'] = [point(row, row) for row in results['nncodec']]
    return {name: sorted(points) for name, points in found.items()}


def draw(results: Mapping[str, Any]) -> Figure:
    """Left: accuracy; right: agreement. Both on the 1,300 photographs."""
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots(1, 2)
    original = results['original']
    for axis, column, label in zip(axes, (1, 2), ('top-1 of 1,300 photographs, %', 'agreement with the original, %')):
        for name, points in curves(results).items():
            mine = name.startswith('ours')
            axis.plot([p[0] for p in points], [p[column] for p in points], 'o-' if len(points) > 1 else 'o',
                      label=name, zorder=3 if mine else 2, linewidth=2.5 if mine else 1.2,
                      markersize=7 if mine else 4)
        top = original['validation']['top1' if column == 1 else 'agreement']
        axis.axhline(top, color='grey', linewidth=0.8, linestyle=':')
        axis.set(xlabel='whole file, MB', ylabel=label, ylim=(top - 22, top + 2), xlim=(1.7, 4.6))
        axis.grid(alpha=0.5)
    axes[0].set_title(
        f"ResNet-18 ({original['bytes'] / 1e6:.1f} MB, {original['validation']['top1']:.2f} %)", fontsize=10)
    axes[0].legend(loc='lower right', fontsize=8)
    return figure


def main() -> None:
    results = json.loads((RESULTS / 'imagenet_resnet18.json').read_text(encoding='utf-8'))
    for theme, suffix in zip(THEMES, ('', '_dark')):
        with themed(theme):
            save(draw(results), RESULTS / f'imagenet_over_bytes{suffix}.png')


if __name__ == '__main__':
    main()
