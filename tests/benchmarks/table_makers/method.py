"""Tables of the method: what each part contributes, the ordering, folding, the spectral bias."""
from collections.abc import Mapping, Sequence
from typing import Any

from table_makers.sources import markdown, network_name, results_of

_NETWORKS = ('resnet20', 'resnet56')
_MAIN = ('UOS and UOS-RFF', 'UOS alone', 'UOS-RFF alone', 'neither', 'NeRN, cross-filter')


def _summaries() -> list[dict[str, Any]]:
    return [results_of(f'ablation_{network}')['summary'] for network in _NETWORKS]


def _cells(row: Mapping[str, float] | None) -> list[str]:
    """Error and accuracy with half of their spread; empty where nothing was measured."""
    return ['', ''] if row is None else [
        f"{row[what]:.{digits}f} ± {row[f'{what}_spread'] / 2:.{digits}f}" for what, digits in (
            ('error', 3), ('top1', 1))]


def _configurations(names: Sequence[str]) -> list[str]:
    header = ['configuration', *(f'{network_name(network)}: {column}' if column == 'error' else column
                                 for network in _NETWORKS for column in ('error', 'top-1', 'distilled'))]
    rows = [(name, *(cell for summary in _summaries() for cell in (
        *_cells(summary['parameters'][name]), _cells(summary['distilled'].get(name))[1]))) for name in names]
    return markdown(header, rows)


def ablation() -> list[str]:
    return _configurations(_MAIN)


def ablation_all() -> list[str]:
    return _configurations([name for name in _summaries()[0]['parameters'] if name not in _MAIN])


def ordering_bytes() -> list[str]:
    """Bytes of an ordering, by what one path runs over."""
    resnet18 = {row['name']: row['ordering_bytes'] for row in results_of('imagenet_variants')['variants']}
    rows = []
    for word, path, name, variant in (
            ('layer', 'all kernels of a layer', 'UOS and UOS-RFF', 'path over each layer'),
            ('filter', 'the kernels of each filter', 'paths over each filter', 'path over each filter'),
            ('axes', 'the filters of a layer, and its input channels', 'paths over the two axes', 'both axes'),
            ('nothing', "none: kernels stay in the original's order", 'UOS-RFF alone', None)):
        sizes = [next(row['ordering_bytes'] for row in results_of(f'ablation_{network}')['rows']
                      if (row['regime'], row['name']) == ('parameters', name)) for network in _NETWORKS]
        sizes.append(resnet18[variant] if variant else 0)
        rows.append((f'`{word}`', path, *(f'{size:,}' for size in sizes)))
    return markdown(['`--order-over`', 'one path runs over', *map(network_name, (*_NETWORKS, 'resnet18'))], rows)


def folding() -> list[str]:
    rows = [(network_name(network), f"{row['max_positions'] or 'no limit'}", f"{row['gflop']:,.1f}",
             f"{row['error']:.3f}", f"{row['top1']:.2f} %" if 'top1' in row else '')
            for network, found in results_of('folding')['networks'].items() for row in found]
    return markdown(['network', 'positions of a layer', 'GFLOP of a load', 'error', 'top-1'], rows)


def spectrum() -> list[str]:
    rows = []
    for name, kernel in results_of('spectrum')['tangent_kernels'].items():
        if isinstance(kernel, dict):
            half = kernel['half_of_the_trace_below']
            words = 'the coordinate itself' if name == 'before' else f"random features,{name.partition(',')[2]}"
            rows.append((words, f"{half['empirical']:g}", f"{half['theory']:g}"))
    return markdown(['what the perceptron reads', 'half of the trace below (cycles)', 'in theory'], rows)


MAKERS = {'ablation': ablation, 'ablation_all': ablation_all, 'ordering_bytes': ordering_bytes, 'folding': folding,
          'spectrum': spectrum}
