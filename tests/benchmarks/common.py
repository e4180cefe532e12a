"""What the benchmarks share: original weights, NeRN's configuration, the rate of matrix products, and results."""
import json
import time
from pathlib import Path
from typing import Any, Mapping

import torch

from timm_sbs.config import EncodingConfig, OrderingConfig

HERE = Path(__file__).parent
RESNET20 = HERE.parent / 'data' / 'resnet20_cifar10.safetensors'
# NeRN's encoding, cross-filter order and activation, as arguments of design.
NERN = dict(ordering=OrderingConfig('layer', 'grid'), encoding=EncodingConfig(kind='positional'), activation='relu')


def product_rate(rows: int, width: int, device: torch.device = torch.device('cpu')) -> float:
    """Operations per second of [rows, width] x [width, width], the best of some."""
    a, b = torch.randn(rows, width, device=device), torch.randn(width, width, device=device)
    out = torch.empty(rows, width, device=device)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * rows * width ** 2 / min(seconds)


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write tests/benchmarks/results/NAME.json."""
    (HERE / 'results' / f'{name}.json').write_text(json.dumps(results, indent=2) + '\n')
