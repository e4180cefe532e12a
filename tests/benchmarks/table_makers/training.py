"""Tables of training and loading: second order, without images, NeRN's loop, what a step and a load cost."""
from typing import Any

from table_makers.sources import markdown, network_name, results_of, spread


def second_order() -> list[str]:
    rows = []
    for name, network in results_of('second_order')['networks'].items():
        for pct in sorted({run['pct'] for run in network['runs']}):
            cells = [spread([run['top1'] for run in network['runs'] if (run['kind'], run['pct']) == (kind, pct)])
                     for kind in ('weights', '100', '500', '2000', 'inversion')]
            rows.append((network_name(name), f'{pct:g} %', *cells))
    return markdown(['network', 'size', 'weights alone', '100 images', '500 images', '2,000 images', 'drawn images'],
                    rows)


def second_order_steps() -> list[str]:
    def seconds(row: dict[str, Any]) -> str:
        return f"{row['cpu_seconds']:.0f} s" if 'cpu_seconds' in row else 'not measured'

    return markdown(['steps', 'of', 'divergence', 'agreement', 'CPU time'], [
        (f"{row['steps']:,}", row['of'], f"{row['holdout_divergence']:.4f}", f"{row['holdout_agreement']:.2f} %",
         seconds(row)) for row in results_of('second_order_steps')['rows']])


def data_free() -> list[str]:
    words = {'none': 'none: reconstruction alone',
             'noise': 'noise with the spectrum of photographs, by an earlier version',
             'inversion': '`--data-free`: images that match the BatchNorm statistics'}
    return markdown(['images', 'top-1'], [
        (words[kind], f'{top1:.2f} %') for kind, top1 in results_of('data_free')['top1'].items()])


def nern_loop() -> list[str]:
    results = results_of('nern_loop')
    rows = [(network_name(network), *(
        f"{run['error']:.3f} after {run['seconds']:{digits}f} s ({run['steps']:,} steps)"
        for run, digits in ((results[network]['ours'], '.1'), (results[network]['nern'], '.0'))))
        for network in ('resnet20', 'resnet56')]
    return markdown(['network', 'ours', "NeRN's loop"], rows)


def distillation_step() -> list[str]:
    rows = [(network_name(row['network']), f"{row['pixels']}, {row['batch_size']}", row['hardware'],
             *(f'{value:,.0f} ms' for value in row['milliseconds'].values()), f"{row['images_per_second']:,.0f}")
            for row in results_of('distillation_step')['rows']]
    return markdown(['network', 'pixels, batch', 'on', 'original', 'network', 'predictor', 'a step',
                     'images a second'], rows)


def loading() -> list[str]:
    rows = [(f'`{name}`', f"{row['bytes']:,}", f"{row['random_ms']:.0f} ms", f"{row['checkpoint_ms']:.0f} ms",
             *(f"{row[f'{kind}_ms']:,.0f} ms ({row[f'{kind}_over_random']:.1f} x)" for kind in ('first', 'later')),
             f"{row['peak_mb_above_model']} MB") for name, row in results_of('load')['models'].items()]
    return markdown(['artifact', 'bytes', 'random weights', 'checkpoint', 'first load', 'later loads', 'more memory'],
                    rows)


MAKERS = {'second_order': second_order, 'second_order_steps': second_order_steps,
          'data_free': data_free, 'nern_loop': nern_loop,
          'distillation_step': distillation_step, 'loading': loading}
