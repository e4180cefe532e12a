"""What the benchmarks share: the original weights, and where results are written."""
import json
from pathlib import Path
from typing import Any, Mapping

HERE = Path(__file__).parent
RESNET20 = HERE.parent / 'data' / 'resnet20_cifar10.safetensors'


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write tests/benchmarks/results/NAME.json."""
    (HERE / 'results' / f'{name}.json').write_text(json.dumps(results, indent=2) + '\n')
