"""Tables of loading and folding."""
from collections.abc import Iterator
from typing import Any

from table_makers.sources import markdown, network_name, results_of, word

_VARIANTS = ('shipped', 'axis', 'layer')


def _loaded() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Label, network and predictor."""
    for network, full in results_of('load')['networks'].items():
        for variant in _VARIANTS:
            if variant in full:
                label = variant if variant == 'shipped' else f'ordered over {word(variant)}'
                yield f'{network_name(network)}, {label}', full, full[variant]


def loading() -> list[str]:
    rows = [(label, f"{ours['bytes']:,}", f"{full['full_ms']:.0f} ms",
             f"{ours['second_ms']:.0f} ms ({ours['second_over_full']:.2f} x)",
             f"{ours['first_ms']:,.0f} ms ({ours['first_over_full']:.1f} x)",
             f"{ours['peak_mb_above_model']:.0f} MB") for label, full, ours in _loaded()]
    return markdown(['predictor', 'bytes', 'full checkpoint', 'second load', 'first load', 'memory above the model'],
                    rows)


def generating() -> list[str]:
    found = [(label, ours['generation']) for label, _, ours in _loaded()]
    unfolded = results_of('load')['networks']['resnet18']['unfolded']
    rows = [(label, f"{run['kernels']:,}", f"{run['places']:,}", f"{run['gflop']:,.1f}", f"{run['ms']:,.0f} ms",
             f"{run['limit_ms']:,.0f} ms", f"{100 * run['share_of_limit']:.0f} %")
            for label, run in [*found, ('ResNet-18, a place for each kernel', unfolded)]]
    return markdown(['predictor', 'kernels', 'places', 'GFLOP', 'generating', 'products alone', 'share'], rows)


def links() -> list[str]:
    rows = [(label, *(f"{ours[f'faster_than_{peer}_below_mbit']:,.0f} Mbit/s" for peer in ('full', 'int8')))
            for label, _, ours in _loaded()]
    return markdown(['predictor', 'than the float32 checkpoint', 'than int8'], rows)


def running() -> list[str]:
    """What a loaded model costs, and what generating in bfloat16 would."""
    created, load = results_of('created_model_resnet20'), results_of('load')
    rows = [
        ('forward pass of ResNet-20, generated', f"{created['forward_ms']['generated']:.1f} ms"),
        ('forward pass of ResNet-20, original', f"{created['forward_ms']['original']:.1f} ms"),
        ('ratio, the median over pairs', f"{created['forward_ratio']:.2f}"),
        ('error of kernels that are generated in bfloat16', f"{load['bfloat16_error']:.1e}")]
    return markdown(['what', 'measured'], rows)


def folding() -> list[str]:
    rows = [(network_name(network), f"{row['max_places'] or 'no limit'}", f"{row['places']:,}", f"{row['gflop']:,.1f}",
             f"{row['error']:.3f}", f"{row['top1']:.2f} %" if 'top1' in row else '')
            for network, found in results_of('folding')['networks'].items() for row in found]
    return markdown(['network', 'places of a layer', 'places', 'GFLOP of a load', 'error', 'top-1'], rows)


MAKERS = {'loading': loading, 'generating': generating, 'links': links, 'running': running, 'folding': folding}
