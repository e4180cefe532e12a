"""What tables are made of: results files, shipped predictors, and the words for what is in them."""
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    'REPOSITORY', 'SHIPPED', 'LEDGER', 'results_of', 'shipped_names', 'sbs_of', 'ledger_of', 'config_of',
    'config_bytes', 'file_bytes', 'bytes_now', 'original_bytes', 'parameters_of', 'word', 'network_name', 'markdown',
    'spread', 'summary_cells']

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / 'timm_sbs' / 'artifact' / 'shipped'  # folder of the predictors inside the package
LEDGER = 'ledger'  # where an 'sbs' block says how many bytes each part takes
# Results files are as old as their measurements. Pages use the words of today.
_WORDS = {'axis': 'axes', 'none': 'nothing'}


@functools.cache
def results_of(name: str) -> dict[str, Any]:
    """tests/benchmarks/results/NAME.json."""
    return json.loads((REPOSITORY / 'tests' / 'benchmarks' / 'results' / f'{name}.json').read_text(encoding='utf-8'))


def shipped_names() -> list[str]:
    """Names of the shipped predictors: those of larger networks first, and within a network the larger first."""
    found = [path.parent.name for path in SHIPPED.glob('*/config.json')]
    assert found, f'no predictors in {SHIPPED}'
    return sorted(found, key=lambda name: (-ledger_of(name)['original'], -file_bytes(name), name))


@functools.cache
def config_of(name: str) -> dict[str, Any]:
    """A shipped predictor's config.json."""
    return json.loads((SHIPPED / name / 'config.json').read_text(encoding='utf-8'))


def parameters_of(name: str) -> str:
    """Parameters of a shipped predictor as per cent of the original's."""
    results = sbs_of(name)['results']
    share = 100 * results['predictor_parameters'] / results['original_parameters']
    return f'{share:.1f} %' if share else 'rounded'


def sbs_of(name: str) -> dict[str, Any]:
    """The 'sbs' block of a shipped predictor's config.json."""
    return config_of(name)['sbs']


def ledger_of(name: str) -> dict[str, Any]:
    """Bytes of a shipped predictor's parts, as its config.json records them."""
    return sbs_of(name)[LEDGER]


def config_bytes(name: str) -> int:
    """Size of a shipped predictor's config.json."""
    return (SHIPPED / name / 'config.json').stat().st_size


def file_bytes(name: str) -> int:
    """Size of a shipped predictor's two files."""
    return ledger_of(name)['file'] + config_bytes(name)


def bytes_now(name: str, measured: int) -> int:
    """Size of a shipped predictor's two files as they are, of anything else as it was measured."""
    return file_bytes(name) if (SHIPPED / name / 'config.json').is_file() else measured


def original_bytes(name: str) -> int:
    """Of the floating-point values of a shipped predictor's original, in float32."""
    return ledger_of(name)['original']


def word(old: str) -> str:
    """Today's word for one of a results file."""
    return _WORDS.get(old, old)


def network_name(key: str) -> str:
    """'ResNet-20' of 'resnet20' or 'resnet20_cifar10'."""
    return f"ResNet-{key.removeprefix('resnet').partition('_')[0]}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table.

    Raises:
        ValueError: A row has not as many cells as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f'{len(row)} cells under {len(header)} headings: {row}')
    return [f"| {' | '.join(cells)} |" for cells in (header,)] + ['|' + '---|' * len(header)] + [
        f"| {' | '.join(cells)} |" for cells in rows]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean over seeds, and half of the spread where there are several."""
    if not values:
        return ''
    mean = f'{sum(values) / len(values):.{digits}f}'
    return mean if len(values) == 1 else f'{mean} ± {(max(values) - min(values)) / 2:.{digits}f}'


def summary_cells(row: Mapping[str, float] | None, top1_digits: int = 1) -> list[str]:
    """Cells of error and accuracy of an ablation's summary; empty where nothing was measured."""
    return ['', ''] if row is None else [
        f"{row[what]:.{digits}f} ± {row[f'{what}_spread'] / 2:.{digits}f}"
        for what, digits in (('error', 3), ('top1', top1_digits))]
