"""Tables of docs/imagenet.md."""
from collections.abc import Mapping
from typing import Any

from table_makers.sources import bytes_now, ledger_of, markdown, results_of, sbs_of
from timm_sbs.common.config import QuantizationConfig

# Top-1 in per cent on the whole validation set, as the paper (arXiv 2509.07373) reports it: ResNet-18 at 15 %.
PAPER = {'original': 69.76, 'predictor of 15 %': 69.43}


def _figures(row: Mapping[str, Any]) -> list[str]:
    first, second = row['validation'], row['validation10']
    return [*(f'{first[key]:.2f} %' for key in ('top1', 'top5', 'agreement')), f"{second['top1']:.2f} %"]


def imagenet() -> list[str]:
    """The original, artifacts, and other ways to make the original small."""
    results = results_of('imagenet_resnet18')
    rows = [('original, float32', results['original'])]
    rows += [(f"`{row['name']}`" if row['name'].startswith('sbs_') else
              row['name'].replace('the same', '`sbs_resnet18_15pct`'), row) for row in results['artifacts']]
    for row in results['rounding']:
        name = f"{row['bits']} bits by channel, {row['how']}"
        rows += [(name, row), (f'{name}, corrected', {**row['corrected'], 'bytes': row['bytes']})]
    rows += [(f"{row['bits']:g} bits of entropy by channel, {row['how']}, corrected",
              {**row['corrected'], 'bytes': row['bytes']}) for row in results['coded']]
    start = results['trained'][0]
    rows.append((f"{start['bits']:g} bits of entropy by channel, before training", start['start']))
    rows += [(f"{row['bits']:g} bits of entropy by channel, trained for {row['steps']:,} steps at {row['lr']:g}", row)
             for row in results['trained']]
    rows += [(f"NNCodec, qp {row['qp']}", row) for row in results['nncodec']]
    return markdown(['network', 'bytes', 'top-1', 'top-5', 'agreement', 'top-1, ten classes'],
                    [(name, f"{bytes_now(name.strip('`'), row['bytes']):,}", *_figures(row)) for name, row in rows])


def imagenet_blocks() -> list[str]:
    """What each residual block contributes to what is lost."""
    rows = []
    for row in results_of('imagenet_resnet18')['blocks']:
        figures = [f"{row[which]['validation'][key]:.2f} %" for which in ('only', 'all_but')
                   for key in ('top1', 'agreement')]
        rows.append((f"`{row['block']}`", f"{row['weights']:,}",
                     ', '.join(f'{error:.3f}' for error in row['errors'].values()), *figures))
    return markdown(['block', 'weights', 'errors of its weights', 'this block alone: top-1', 'agreement',
                     'all but this: top-1', 'agreement'], rows)


def imagenet_kept() -> list[str]:
    results = results_of('imagenet_resnet18')
    artifact, name = results['artifacts'][0], 'sbs_resnet18_15pct'
    default = QuantizationConfig().kept_bits
    rows = [(f"{sbs_of(name)['quantization'].get('kept_bits', default)}, as shipped", f"{ledger_of(name)['kept']:,}",
             *_figures(artifact)[:3])]
    rows += [(str(row['bits']), f"{row['kept_bytes']:,}", *_figures(row)[:3]) for row in results['kept']]
    return markdown(['bits of kept tensors', 'their bytes', 'top-1', 'top-5', 'agreement'], rows)


def kept_tensors() -> list[str]:
    """What rounding of the kept tensors alone does: by one step for a vector, and as it is done."""
    results = results_of('kept_tensors')
    before = {row['network']: row for row in results['before']}
    rows = []
    for row in results['runs']:
        then = before[row['network']] if row['kept_bits'] == 8 else {}
        rows.append((f"`{row['network']}`", str(row['kept_bits']), f"{row['kept_bytes']:,}", f"{row['changed']:.2f} %",
                     f"{then['kept_bytes']:,}" if then else '', f"{then['changed']:.2f} %" if then else ''))
    return markdown(['network', 'bits', 'bytes', 'predictions changed', 'with one step for a vector: bytes',
                     'predictions changed'], rows)


def imagenet_variants() -> list[str]:
    """Top-1 after each phase, and what the last artifact does."""
    rows = []
    for row in results_of('imagenet_variants')['variants']:
        found = {phase['phase']: f"{phase['top1']:.2f} %" for phase in reversed(row['phases'])}  # the first of each
        first, second = row['validation'], row['validation10']
        distilled = f"{first['top1']:.2f} % ({row['distillation_steps']:,} steps)" if row['distillation_steps'] else ''
        rows.append((
            row['name'], f"{row['bytes']:,}", f"{row['ordering_bytes']:,}", f"{row['predictor_parameters']:,}",
            found['reconstruction'], found['second-order'], found.get('quantization') or found['end'], distilled,
            f"{first['top5']:.2f} %", f"{first['agreement']:.2f} %", f"{second['top1']:.2f} %"))
    return markdown(['ordering', 'bytes', 'of these ordering', 'parameters', 'reconstruction', 'second order',
                     'rounded', 'distilled', 'top-5', 'agreement', 'ten classes'], rows)


def imagenet_times() -> list[str]:
    """What each phase of sbs_resnet18_15pct took."""
    results = sbs_of('sbs_resnet18_15pct')['results']
    [run] = [row for row in results_of('imagenet_variants')['variants'] if row['name'] == 'path over each layer']
    rounded, distilled = run['phases'][-2:]
    seconds: dict[str, float] = {
        'reconstruction': results['reconstruction_seconds'], 'statistics': results['statistics_seconds'],
        'second order': results['second_order_seconds'] - results['reconstruction_seconds']
        - results['statistics_seconds'], 'distillation, rounded': distilled['seconds'] - rounded['seconds']}
    takes = (f"{results['reconstruction_steps']:,} steps, no image",
             f"{results['statistics_images']:,} photographs, looked at once",
             f"{results['second_order_steps']:,} steps, no image",
             f"{results['quantization_steps']:,} steps of 64 crops of 13,000 photographs")
    return markdown(['phase', 'what it takes', 'time'],
                    [(phase, what, f'{taken / 60:.0f} min') for (phase, taken), what in zip(seconds.items(), takes)])


def imagenet_paper() -> list[str]:
    results = sbs_of('sbs_resnet18_15pct')['results']
    return markdown(['who measured', 'images', 'original', 'predictor of 15 %', 'difference'], [
        ('the paper', 'the whole validation set', *(f'{top1:.2f} %' for top1 in PAPER.values()),
         f"{PAPER['predictor of 15 %'] - PAPER['original']:+.2f}"),
        ('this project', f"{results['images']:,} photographs, an easy sample of it",
         f"{results['original_top1']:.2f} %", f"{results['top1']:.2f} %",
         f"{results['top1'] - results['original_top1']:+.2f}")])


MAKERS = {
    'imagenet': imagenet, 'imagenet_blocks': imagenet_blocks, 'imagenet_kept': imagenet_kept,
    'kept_tensors': kept_tensors, 'imagenet_variants': imagenet_variants, 'imagenet_times': imagenet_times,
    'imagenet_paper': imagenet_paper}
