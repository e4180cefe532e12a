"""Tables of the artifacts inside the package."""
from table_makers.sources import (
    config_of,
    file_bytes,
    ledger_of,
    markdown,
    sbs_of,
    shipped_names,
)
from timm_sbs.artifact.ledger import PARTS

_LICENCES = {'cc-by-nc-4.0': 'CC BY-NC 4.0', 'bsd-2-clause': 'BSD-2-Clause', 'apache-2.0': 'Apache-2.0'}


def shipped() -> list[str]:
    rows = []
    for name in shipped_names():
        licence, results, size = config_of(name)['pretrained_cfg']['license'], sbs_of(name)['results'], file_bytes(name)
        share = 100 * ledger_of(name)['predictor_parameters'] / results['original_parameters']
        rows.append((
            f'`{name}`', f'predictor, {share:.0f} %' if share else 'rounded weights',
            f"{size:,} ({ledger_of(name)['original'] / size:.1f} x smaller)", f"{results['top1']:.2f} %",
            f"{results['original_top1']:.2f} %", f"{results['agreement']:.1f} %", _LICENCES[licence]))
    return markdown(['name', 'kind', 'bytes', 'top-1', 'original', 'agreement', 'licence'], rows)


def where_bytes_are() -> list[str]:
    rows = []
    for name in shipped_names():
        sizes = ledger_of(name)
        rows.append((f'`{name}`', *(f'{sizes[part]:,}' for part in PARTS)))
    return markdown(['artifact', 'predictor', 'ordering', 'rounded weights', 'stored tensors', 'frequencies', 'header',
                     'config.json'], rows)


MAKERS = {'shipped': shipped, 'where_bytes_are': where_bytes_are}
