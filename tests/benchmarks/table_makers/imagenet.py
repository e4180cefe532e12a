"""Tables of networks with ImageNet's classes, and what others report."""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from table_makers.sources import file_bytes, markdown, results_of, sbs_of

# Top-1 in per cent on the whole validation set, as the paper (arXiv 2509.07373) reports it: ResNet-18 at 15 %.
PAPER = {'original': 69.76, 'predictor of 15 %': 69.43}


@dataclass(frozen=True)
class Anchor:
    """A ResNet-18 of others: bytes, and top-1 on the whole validation set less that of its original, in points."""
    name: str
    bytes: int
    difference: float
    source: str


MARGIN = math.log(1.5)  # of divergence, in which bits are extrapolated
FIGURES = 'top-1', 'top-5', 'agreement', 'top-1, ten classes'
NETWORKS = {'lite0': 'EfficientNet-Lite0', 'lite1': 'EfficientNet-Lite1', 'resnet18': 'ResNet-18'}
ANCHORS = (
    Anchor('EPR', 1_970_000, 0.0, 'arXiv 1906.06624'), Anchor('LilNetX', 1_000_000, -1.2, 'arXiv 2204.02965'),
    Anchor('PQF', 1_540_000, 66.7 - 69.76, 'arXiv 2010.15703'))


def rows_of(network: str) -> list[dict[str, Any]]:
    """The original, and all that was made of it; what ships has the size of its files."""
    results = results_of('imagenet')
    found = [{'size': 'original', **results['originals'][network]}]
    found += [row for row in results['rows'] if row['network'] == network]
    return [{**row, 'bytes': file_bytes(row['name'])} if 'name' in row else row for row in found]


def imagenet(*networks: str) -> list[str]:
    """Originals, and what was made of them."""
    rows = []
    for network in networks:
        for row in rows_of(network):
            minutes = ', '.join(f"{phase.replace('_', ' ')} {time:.0f}"
                                for phase, time in row.get('minutes', {}).items())
            rows.append((NETWORKS[network], _kind(row), f"{row['bytes']:,}", *_figures(row), minutes))
    return markdown(['network', 'kind', 'bytes', *FIGURES, 'minutes'], rows)


def _figures(row: Mapping[str, Any]) -> list[str]:
    """Cells of what was measured on both sets of photographs."""
    found = [row['validation'][key] for key in ('top1', 'top5', 'agreement')]
    return [f'{figure:.2f} %' for figure in (*found, row['validation10']['top1'])]


def _kind(row: Mapping[str, Any]) -> str:
    if 'name' in row:
        return f"`{row['name']}`"
    size = row['size']
    if size == 'original' or size.startswith('NNCodec'):
        return str(size)
    return f"predictor, {size.removesuffix('pct')} %" if size.endswith('pct') else f'rounded to {size[:-1]} {size[-1]}B'


def imagenet_variants() -> list[str]:
    """Top-1 after each phase, and what the last artifact does."""
    rows = []
    for row in results_of('imagenet_variants')['variants']:
        first = row['validation']
        distilled = f"{first['top1']:.2f} % ({row['distillation_steps']:,} steps)" if row['distillation_steps'] else ''
        rows.append((row['name'], f"{row['bytes']:,}", f"{row['ordering_bytes']:,}", f"{row['reconstruction']:.2f} %",
                     f"{row['second_order']:.2f} %", distilled, f"{first['agreement']:.2f} %",
                     f"{row['seconds'] / 60:.0f} min"))
    return markdown(['ordering', 'bytes', 'of these ordering', 'reconstruction', 'second order', 'distilled',
                     'agreement', 'time'], rows)


def imagenet_paper() -> list[str]:
    results = sbs_of('sbs_resnet18_15pct')['results']
    return markdown(['who measured', 'images', 'original', 'predictor of 15 %', 'difference'], [
        ('the paper', 'the whole validation set', *(f'{top1:.2f} %' for top1 in PAPER.values()),
         f"{PAPER['predictor of 15 %'] - PAPER['original']:+.2f}"),
        ('this project', f"{results['images']:,} photographs, an easy sample of it",
         f"{results['original_top1']:.2f} %", f"{results['top1']:.2f} %",
         f"{results['top1'] - results['original_top1']:+.2f}")])


def rounding_methods() -> list[str]:
    """Bits of a weight and divergence for each slope, and how many bits our rounding takes at the same divergence."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in results_of('rounding_methods')['rows']:
        found.setdefault((row['network'], row['method']), []).append((math.log(row['divergence']), row['bits']))
    slopes = sorted({row['slope'] for row in results_of('rounding_methods')['rows']})
    rows = []
    for (network, method), points in found.items():
        cells = [f'{bits:.2f}, {math.exp(log):.3f}{_beside(found[network, "ours"], bits, log)}' for log, bits in points]
        rows.append((NETWORKS[network], method, *cells, *[''] * (len(slopes) - len(cells))))
    return markdown(['network', 'method', *(f'{slope:.0e} nats for a bit' for slope in slopes)], rows)


def _beside(ours: list[tuple[float, float]], bits: float, log: float) -> str:
    """By how many per cent bits differ from ours at the same divergence, where that was measured or is near."""
    (x0, y0), (x1, y1) = sorted(ours, key=lambda point: abs(point[0] - log))[:2]
    if not min(ours)[0] - MARGIN < log < max(ours)[0] + MARGIN or (log, bits) in ours:
        return ''
    return f', {100 * (bits / (y0 + (y1 - y0) * (log - x0) / (x1 - x0)) - 1):+.1f} %'


MAKERS = {'rounding_methods': rounding_methods,
          'imagenet_lite': partial(imagenet, 'lite0', 'lite1'), 'imagenet_resnet18': partial(imagenet, 'resnet18'),
          'imagenet_variants': imagenet_variants,
          'imagenet_paper': imagenet_paper}
