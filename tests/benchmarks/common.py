"""What the benchmarks share: the original weights, NeRN's configuration, and where results are written."""
import json
from pathlib import Path
from typing import Any, Mapping

from timm_sbs.config import EncodingConfig, OrderingConfig

HERE = Path(__file__).parent
RESNET20 = HERE.parent / 'data' / 'resnet20_cifar10.safetensors'
# NeRN's encoding, cross-filter order and activation, as arguments of design.
NERN = dict(ordering=OrderingConfig('layer', 'grid'), encoding=EncodingConfig(kind='positional'), activation='relu')


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write tests/benchmarks/results/NAME.json."""
    (HERE / 'results' / f'{name}.json').write_text(json.dumps(results, indent=2) + '\n')
