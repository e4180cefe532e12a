"""Tables of accuracy on CIFAR-10: beside the paper and NeRN, beside NNCodec and others, on corrupted images."""
from collections.abc import Sequence
from typing import Any

from table_makers.sources import (
    file_bytes,
    markdown,
    network_name,
    results_of,
    sbs_of,
    shipped_names,
    spread,
)

# Top-1 in per cent of SBS with so many per cent of the parameters (arXiv 2509.07373), as the paper reports it.
PAPER = {('resnet20', 20): 90.50, ('resnet56', 20): 92.51}
_METHODS = {'rounding': 'ours, rounded, trained', 'rounding, untrained': 'ours, rounded, no training',
            'predictor': 'ours, predictor', 'predictor, 3 bits': 'ours, predictor of 3 bits'}
Points = list[dict[str, Any]]


def _others(network: str) -> Points:
    return results_of('accuracy_over_bytes')['networks'][network]['points']


def _ours(network: str) -> Points:
    return [point for point in results_of('frontier')['points'] if point['network'] == network]


def _shipped(network: str) -> list[str]:
    """Names inside the package, the smallest first."""
    return [name for name in reversed(shipped_names()) if sbs_of(name)['base'] == f'{network}_cifar10']


def _cells(share: str, size: int | str, accuracy: float | str) -> Sequence[str]:
    return (share, f'{size:,}' if isinstance(size, int) else size,
            f'{accuracy:.2f} %' if isinstance(accuracy, float) else accuracy)


def beside_paper() -> list[str]:
    """CIFAR-10 by parameters and by bytes: what the paper reports, NeRN's configuration, and ours."""
    columns = [_beside_paper(network, pct) for network, pct in PAPER]
    header = ['what', *(cell for network, _ in PAPER for cell in (
        f'{network_name(network)}: parameters', 'bytes', 'top-1'))]
    return markdown(header, [(what, *(cell for column in columns for cell in column[what])) for what in columns[0]])


def _beside_paper(network: str, pct: int) -> dict[str, Sequence[str]]:
    """Cells of parameters, bytes and top-1, by what was measured."""
    entry = results_of('accuracy_over_bytes')
    original, share = entry['networks'][network]['original'], f'{pct} %'
    nern = next(point for point in _others(network) if point['method'] == "NeRN's configuration")
    second_order = [run['top1'] for run in results_of('second_order')['networks'][network]['runs']
                    if (run['kind'], run['pct']) == ('2000', pct)]
    size_of_floats = results_of(f'ablation_{network}')['summary']['distilled']['UOS and UOS-RFF']['bytes']
    floats = {point['name']: point for point in _ours(network)}
    twenty, ten = (floats[f'{network}_{part}pct'] for part in (20, 10))
    smallest = _shipped(network)[0]
    return {
        'original': _cells('100 %', original['bytes'], original['top1']),
        'SBS, as its paper reports it': _cells(share, '', PAPER[network, pct]),
        f"NeRN's configuration, {entry['nern_steps']} steps of distillation": _cells(
            share, nern['bytes'], nern['top1']),
        'ours, second order alone': _cells(
            share, f'about {size_of_floats / 1000:.0f} kB', f'{spread(second_order)} %'),
        'ours, distilled, 20 %': _cells('20 %', twenty['bytes'], twenty['top1']),
        'ours, distilled, 10 %': _cells('10 %', ten['bytes'], ten['top1']),
        'ours, rounded weights, the smallest that ships': _cells(
            '', file_bytes(smallest), sbs_of(smallest)['results']['top1'])}


def _bytes_at(points: Points, accuracy: float) -> int | None:
    """Bytes that a sweep takes for an accuracy: linear between its points; None if it does not reach it."""
    above = [(p['bytes'], p['top1']) for p in points if p['top1'] >= accuracy]
    if not above:
        return None
    size, top1 = min(above)
    below = [(p['top1'], p['bytes']) for p in points if p['top1'] < accuracy and p['bytes'] < size]
    if not below:
        return size
    lower, lower_size = max(below)
    return round(lower_size + (accuracy - lower) / (top1 - lower) * (size - lower_size))


def beside_nncodec() -> list[str]:
    rows = []
    for network in results_of('accuracy_over_bytes')['networks']:
        sweep = [point for point in _others(network) if point['method'] == 'NNCodec']
        for name in reversed(_shipped(network)):
            size, top1 = file_bytes(name), sbs_of(name)['results']['top1']
            peer = _bytes_at(sweep, top1)
            rows.append((f'`{name}`', f'{top1:.2f} %', f'{size:,}', f'{peer:,} ({peer / size:.1f} x)' if peer else ''))
    return markdown(['artifact', 'top-1', 'bytes', "NNCodec's bytes at this accuracy"], rows)


def accuracy_over_bytes() -> list[str]:
    """All points of both networks."""
    rows = []
    for network, entry in results_of('accuracy_over_bytes')['networks'].items():
        found = [('original, float32', entry['original'], '')]
        for method, words in _METHODS.items():
            points = sorted((p for p in _ours(network) if p['method'] == method), key=lambda p: p['bytes'])
            found += [(words, p, f"{p['steps']:,}") for p in points]
        found += [(f"{p['method']}, {p['setting']}", p, '') for p in entry['points']]
        rows += [(network_name(network), words, f"{p['bytes']:,}", f"{p['top1']:.2f} %", steps)
                 for words, p, steps in found]
    return markdown(['network', 'method', 'bytes', 'top-1', 'steps of distillation'], rows)


def from_scratch() -> list[str]:
    """Runs of one command each, beside the artifact that ships."""
    rows = []
    for row in results_of('from_scratch')['rows']:
        ships = sbs_of(row['name'])['results']
        rows.append((f"`{row['name']}`", f"`{row['flags']}`", f"{row['bytes']:,}",
                     *(f'{found[key]:.2f} %' for key in ('top1', 'agreement') for found in (row, ships)),
                     f"{row['cpu_seconds'] / 60:.0f}"))
    return markdown(['like', 'flags', 'bytes', 'top-1', 'that ships', 'agreement', 'that ships', 'CPU minutes'], rows)


def robustness() -> list[str]:
    rows = []
    for base, members in results_of('robustness')['summary'].items():
        for name, found in members.items():
            label = f'`{name}`' if name.startswith('sbs_') else f'{network_name(base)}, {name}'
            rows.append((label, *(f'{found[images][what]:.1f} %' for what in (
                'top1', 'agreement', 'calibration_error') for images in ('clean', 'corrupted'))))
    return markdown(['network', 'top-1, clean', 'corrupted', 'agreement, clean', 'corrupted',
                     'calibration error, clean', 'corrupted'], rows)


MAKERS = {'beside_paper': beside_paper, 'beside_nncodec': beside_nncodec, 'accuracy_over_bytes': accuracy_over_bytes,
          'from_scratch': from_scratch, 'robustness': robustness}
