"""What tables are made of: results files, the config.json of what ships, and the words for what is in them."""
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_sbs.artifact.ledger import full_ledger

REPOSITORY = Path(__file__).parents[3]
RESULTS = REPOSITORY / 'tests' / 'benchmarks' / 'results'
CONFIGS = {  # config.json of each named artifact
    path.parent.name: path for folder in ('timm_sbs/artifact/shipped', 'noncommercial/timm_sbs_noncommercial')
    for path in (REPOSITORY / folder).glob('*/config.json')}


@functools.cache
def results_of(name: str) -> dict[str, Any]:
    """tests/benchmarks/results/NAME.json."""
    text = (RESULTS / f'{name}.json').read_text(encoding='utf-8')
    return json.loads(text.replace('"1 CPU threads', '"1 CPU thread'))


def shipped_names() -> list[str]:
    """Names of the artifacts: those of larger networks first, and within a network the larger first."""
    return sorted(CONFIGS, key=lambda name: (-ledger_of(name)['original'], -file_bytes(name), name))


@functools.cache
def config_of(name: str) -> dict[str, Any]:
    """An artifact's config.json."""
    return json.loads(CONFIGS[name].read_text(encoding='utf-8'))


def sbs_of(name: str) -> dict[str, Any]:
    """The 'sbs' block of an artifact's config.json."""
    return config_of(name)['sbs']


def ledger_of(name: str) -> dict[str, int]:
    """Bytes of an artifact's parts, of both files, and of the original's values; the predictor's parameters."""
    return full_ledger(sbs_of(name)['ledger'], CONFIGS[name].stat().st_size)


def file_bytes(name: str) -> int:
    """Size of an artifact's two files."""
    return ledger_of(name)['total']


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
    return [f"| {' | '.join(header)} |", '|' + '---|' * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean over seeds, and half of the spread where there are several."""
    if not values:
        return ''
    mean = f'{sum(values) / len(values):.{digits}f}'
    return mean if len(values) == 1 else f'{mean} ± {(max(values) - min(values)) / 2:.{digits}f}'
