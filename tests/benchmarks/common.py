"""What the benchmarks share: the original weights, and how results are described and written."""
import json
import platform
from pathlib import Path
from typing import Any, Dict, Mapping

import timm
import torch

import timm_sbs

HERE = Path(__file__).parent
RESNET20 = HERE.parent / 'data' / 'resnet20_cifar10.safetensors'


def environment() -> Dict[str, Any]:
    """Versions and hardware of this run."""
    return {
        'versions': {'timm_sbs': timm_sbs.__version__, 'timm': timm.__version__, 'torch': torch.__version__},
        'hardware': f'{torch.get_num_threads()} CPU threads, {platform.machine()}',
    }


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write tests/benchmarks/results/NAME.json."""
    (HERE / 'results' / f'{name}.json').write_text(json.dumps(results, indent=2) + '\n')
