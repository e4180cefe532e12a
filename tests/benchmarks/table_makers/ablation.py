"""Tables of the ablation: what each part of the method contributes."""
from collections.abc import Mapping, Sequence
from typing import Any

from table_makers.sources import markdown, network_name, results_of, summary_cells, word

_NETWORKS = ('resnet20', 'resnet56')
_ORDERINGS = ('layer', 'axis', 'filter', 'none')
_MAIN = ('UOS and UOS-RFF', 'UOS alone', 'UOS-RFF alone', 'neither', 'NeRN, cross-filter')
_WORDS = {'filter': 'paths over each filter', 'axis': 'paths over the two axes'}


def _summaries() -> list[dict[str, Any]]:
    return [results_of(f'ablation_{network}')['summary'] for network in _NETWORKS]


def _parameters(names: Sequence[str]) -> list[str]:
    header = ['configuration', *(f'{network_name(network)}: {column}' if column == 'error' else column
                                 for network in _NETWORKS for column in ('error', 'top-1', 'distilled'))]
    rows = []
    for name in names:
        cells = [cell for summary in _summaries() for cell in (
            *summary_cells(summary['parameters'][name]), summary_cells(summary['distilled'].get(name))[1])]
        rows.append((_WORDS.get(name, name), *cells))
    return markdown(header, rows)


def ablation() -> list[str]:
    return _parameters(_MAIN)


def ablation_all() -> list[str]:
    return _parameters([name for name in _summaries()[0]['parameters'] if name not in _MAIN])


def ablation_answers() -> list[str]:
    """Errors of one part left out, over those with all parts, and what is left of the difference after distillation."""
    rows = []
    for words, name in (('no ordering', 'UOS-RFF alone'), ("NeRN's encoding", 'UOS alone'),
                        ('the best single bandwidth', 'p = 0')):
        cells = []
        for summary in _summaries():
            ours, other = (summary['parameters'][key] for key in ('UOS and UOS-RFF', name))
            distilled = [summary['distilled'].get(key) for key in ('UOS and UOS-RFF', name)]
            points = f"{distilled[1]['top1'] - distilled[0]['top1']:+.1f}" if all(distilled) else ''
            cells += [f"{other['error'] / ours['error']:.2f} x", f"{other['top1'] - ours['top1']:+.1f}", points]
        rows.append((words, *cells))
    return markdown(['instead of the default', *(
        f'{network_name(network)}: {column}' if column == 'error' else column
        for network in _NETWORKS for column in ('error', 'top-1, points', 'distilled, points'))], rows)


def _bytes(index: int) -> list[str]:
    summary = _summaries()[index]
    sizes = {regime.removesuffix('k bytes'): rows for regime, rows in summary.items() if regime.endswith(' bytes')}
    rows = []
    for name in _ORDERINGS:
        cells = [cell for found in sizes.values() for cell in (
            summary_cells(found[name]) if name in found else ['does not fit', ''])]
        rows.append((word(name), *cells))
    best = [min((name for name in found if name in _ORDERINGS), key=lambda name: found[name]['error'])
            for found in sizes.values()]
    rows.append(('smallest error', *(cell for name in best for cell in (word(name), ''))))
    header = [f'{network_name(_NETWORKS[index])}, order over',
              *(cell for size in sizes for cell in (f'{size} kB: error', 'top-1'))]
    return markdown(header, rows)


def ablation_other() -> list[str]:
    resnet20, resnet56 = _summaries()
    first, second = resnet20['110k bytes'], resnet56['240k bytes']
    names = [name for name in ('UOS alone', 'neither', 'NeRN, cross-filter', 'p = 0', 'p = 0.25') if name in first]
    rows = [(name, *summary_cells(first[name]), *summary_cells(second.get(name))) for name in ('layer', *names)]
    return markdown(['configuration', 'ResNet-20, 110 kB: error', 'top-1', 'ResNet-56, 240 kB: error', 'top-1'], rows)


def ablation_rounded() -> list[str]:
    found: Mapping[str, Any] = results_of('ablation_resnet20')['summary']['80k bytes, distilled']
    rows = [(word(name), summary_cells(found[name], top1_digits=2)[1]) for name in _ORDERINGS]
    return markdown(['order over', 'ResNet-20, 80 kB: top-1'], rows)


def ordering_bytes() -> list[str]:
    """Bytes of an ordering, by what one path runs over."""
    resnet18 = {row['name']: row['ordering_bytes'] for row in results_of('imagenet_variants')['variants']}
    rows = []
    for words, path, name, variant in (
            ('layer', 'all kernels of a layer', 'UOS and UOS-RFF', 'path over each layer'),
            ('filter', 'the kernels of each filter', 'filter', 'path over each filter'),
            ('axes', 'the filters of a layer, and its input channels', 'axis', 'both axes'),
            ('nothing', "none: kernels stay in the original's order", 'UOS-RFF alone', None)):
        cells = []
        for network in _NETWORKS:
            [size] = {row['ordering_bytes'] for row in results_of(f'ablation_{network}')['rows']
                      if row['regime'] == 'parameters' and row['name'] == name}
            cells.append(f'{size:,}')
        rows.append((f'`{words}`', path, *cells, f'{resnet18[variant]:,}' if variant else '0'))
    return markdown(['`--order-over`', 'one path runs over', *map(network_name, _NETWORKS), 'ResNet-18'], rows)


MAKERS = {
    'ablation': ablation, 'ablation_all': ablation_all, 'ablation_answers': ablation_answers,
    'ablation_bytes_resnet20': lambda: _bytes(0), 'ablation_bytes_resnet56': lambda: _bytes(1),
    'ablation_other': ablation_other, 'ablation_rounded': ablation_rounded, 'ordering_bytes': ordering_bytes}
