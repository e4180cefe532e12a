"""Tables of the predictors inside the package."""

from table_makers.sources import (
    config_bytes,
    config_of,
    file_bytes,
    ledger_of,
    markdown,
    network_name,
    original_bytes,
    parameters_of,
    results_of,
    sbs_of,
    shipped_names,
)

_LICENCES = {'cc-by-nc-4.0': 'CC BY-NC 4.0', 'bsd-2-clause': 'BSD-2-Clause'}
_PARTS = ('predictor', 'ordering', 'rounded', 'kept', 'frequencies', 'header')


def _agreement(name: str) -> str:
    """Of all images of its own measurement, or of those of the corrupted images' benchmark."""
    sbs = sbs_of(name)
    if 'agreement' in sbs['results']:
        return f"{sbs['results']['agreement']:.2f} %"
    found = results_of('robustness')['summary'].get(sbs['base'], {}).get(name)
    return f"{found['clean']['agreement']:.2f} %" if found else 'not measured'


def shipped() -> list[str]:
    rows = []
    for name in shipped_names():
        sbs, licence = sbs_of(name), config_of(name)['pretrained_cfg']['license']
        results, total = sbs['results'], file_bytes(name)
        rows.append((
            f'`{name}`', f"{results['original_top1']:.2f} %", f"{results['top1']:.2f} %", _agreement(name),
            parameters_of(name), f"{total:,} ({original_bytes(name) / total:.1f} x smaller)",
            _LICENCES.get(licence, licence)))
    return markdown(['name', 'original', 'ours', 'agreement', 'parameters', 'bytes', 'licence'], rows)


def shipped_cifar() -> list[str]:
    rows = []
    names = [name for name in shipped_names() if '_cifar10_' in name]
    for key, network in results_of('accuracy_over_bytes')['networks'].items():
        members = [name for name in names if key in name]
        original = network['original']
        parameters = sbs_of(members[0])['results']['original_parameters']
        rows.append((f'{network_name(key)}, published weights', f"{original['top1']:.2f} %", f'{parameters:,}',
                     f"{original['bytes']:,}"))
        for name in members:
            results, total = sbs_of(name)['results'], file_bytes(name)
            rows.append((f'`{name}`', f"{results['top1']:.2f} %",
                         f"{results['predictor_parameters']:,} ({parameters_of(name)})",
                         f"{total:,} ({original['bytes'] / total:.1f} x smaller)"))
    return markdown(['network', 'top-1', 'parameters', 'bytes'], rows)


def validations() -> list[str]:
    rows = []
    for name in shipped_names():
        results = sbs_of(name)['results']
        runs = [run for run in (results.get('started_from'), results) if run]
        if 'validations' not in results:
            continue
        rows.append((f'`{name}`', f"{results['top1']:.2f} %", f"{results['last_top1']:.2f} %",
                     ' + '.join(str(run['validations']) for run in runs)))
    return markdown(['predictor', 'top-1 of the best', 'top-1 after the last step', 'validations'], rows)


def where_bytes_are() -> list[str]:
    rows = []
    for name in shipped_names():
        sizes = ledger_of(name)
        rows.append((f'`{name}`', *(f'{sizes[part]:,}' for part in _PARTS), f'{config_bytes(name):,}'))
    return markdown([
        'artifact', 'predictor', 'ordering', 'rounded weights', 'kept tensors', 'frequencies', 'header', 'config.json'],
        rows)


MAKERS = {'shipped': shipped, 'shipped_cifar': shipped_cifar, 'validations': validations,
          'where_bytes_are': where_bytes_are}
