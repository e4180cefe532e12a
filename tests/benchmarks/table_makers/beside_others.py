"""Tables that put predictors beside the paper, NeRN, and other ways to make a checkpoint small."""
from collections.abc import Mapping, Sequence
from typing import Any

from table_makers.sources import (
    bytes_now,
    file_bytes,
    markdown,
    network_name,
    parameters_of,
    results_of,
    sbs_of,
    shipped_names,
    spread,
)

# Top-1 in per cent of SBS with so many per cent of the parameters (arXiv 2509.07373), as the paper reports it.
PAPER = {('resnet20', 20): 90.50, ('resnet56', 20): 92.51}


def _points(network: str) -> list[dict[str, Any]]:
    return results_of('accuracy_over_bytes')['networks'][network]['points']


def beside_paper() -> list[str]:
    """CIFAR-10 by parameters and by bytes: what the paper reports, NeRN's configuration, and ours."""
    columns = [_beside_paper(network, pct) for network, pct in PAPER]
    header = ['what', *(cell for network, _ in PAPER for cell in (
        f'{network_name(network)}: parameters', 'bytes', 'top-1'))]
    return markdown(header, [
        (what, *(cell for column in columns for cell in column.get(what, ('', '', '')))) for what in columns[0]])


def _beside_paper(network: str, pct: int) -> dict[str, Sequence[str]]:
    """Cells of parameters, bytes and top-1, by what was measured."""
    entry = results_of('accuracy_over_bytes')
    original = entry['networks'][network]['original']
    nern = next(point for point in _points(network) if point['method'] == "NeRN's configuration")
    looked = [run['top1'] for run in results_of('second_order')['networks'][network]['runs']
              if (run['kind'], run['pct']) == ('2000', pct)]
    size_of_floats = results_of(f'ablation_{network}')['summary']['distilled']['UOS and UOS-RFF']['bytes']
    shipped = [name for name in shipped_names() if f'{network}_' in name]
    generated, rounded = ([name for name in shipped if name.endswith(end)][-1] for end in ('pct', 'kb'))
    share, size = f'{pct} %', f'about {size_of_floats / 1000:.0f} kB'
    cells: dict[str, Sequence[str]] = {
        'original': ('100 %', f"{original['bytes']:,}", f"{original['top1']:.2f} %"),
        'SBS, as its paper reports it': (share, '', f'{PAPER[network, pct]:.2f} %'),
        f"NeRN's configuration, floats, {entry['nern_steps']} steps of distillation": (
            share, f"{nern['bytes']:,}", f"{nern['top1']:.2f} %"),
        'ours, floats, second order alone': (share, size, f'{spread(looked)} %')}
    floats = {point['name']: point for point in results_of('frontier')['points'] if point['method'] == 'floats'}
    for part in (part for part in (20, 10) if any(name.endswith(f'_{part}pct') for name in floats)):
        point = floats.get(f'{network}_floats_{part}pct')
        cells[f'ours, floats, distilled, {part} %'] = (
            f'{part} %', f"{point['bytes']:,}", f"{point['top1']:.2f} %") if point else ('', '', 'not measured')
    for words, name, parameters in (
            ('a predictor of 5 bits', generated, parameters_of(generated)), ('rounded weights', rounded, '')):
        cells[f'ours, {words}, the smallest that ships'] = (
            parameters, f'{file_bytes(name):,}', f"{sbs_of(name)['results']['top1']:.2f} %")
    return cells


def same_accuracy() -> list[str]:
    rows = []
    for network in results_of('accuracy_over_bytes')['networks']:
        ours = {point['setting']: point for point in _points(network) if point['method'] == 'ours'}
        rows += [(f'`{name}`', f"{ours[name]['top1']:.2f} %", f'{file_bytes(name):,}',
                  f"{ours[name]['nncodec_bytes_at_its_accuracy']:,} ({ours[name]['times_smaller_than_nncodec']:.2f} x)")
                 for name in shipped_names() if name in ours]
    return markdown(['predictor', 'top-1', 'bytes', 'NNCodec at this accuracy'], rows)


def accuracy_over_bytes() -> list[str]:
    rows = []
    for network, entry in results_of('accuracy_over_bytes')['networks'].items():
        name = network_name(network)
        rows.append((name, _label(entry['original']), f"{entry['original']['bytes']:,}",
                     f"{entry['original']['top1']:.2f} %"))
        rows += [(name, _label(point), f"{bytes_now(point['setting'], point['bytes']):,}", f"{point['top1']:.2f} %")
                 for point in entry['points']]
    return markdown(['network', 'method', 'bytes', 'top-1'], rows)


def _label(point: Mapping[str, Any]) -> str:
    if point['method'] == 'ours':
        return f"`{point['setting']}`"
    return f"{point['method']}, {point['setting']}"


MAKERS = {'beside_paper': beside_paper, 'same_accuracy': same_accuracy, 'accuracy_over_bytes': accuracy_over_bytes}
