"""What the benchmarks share: original weights, NeRN's configuration, roundings, rates, and results."""
import json
import time
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor

from timm_sbs.config import EncodingConfig, OrderingConfig
from timm_sbs.entropy import encode_integers

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


def rounded_by_channel(state: Mapping[str, Tensor], bits: int) -> Tuple[Dict[str, Tensor], int]:
    """A state dict with weights rounded by output channel and all else as float16, and its bytes, entropy-coded."""
    arrays, other, decoded = [], 0, {}
    for name, tensor in state.items():
        if tensor.dim() < 2:
            decoded[name] = tensor.half().float()
            other += 2 * tensor.numel()
            continue
        rows = tensor.flatten(1)
        steps = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-8).half().float()
        integers = (rows / steps).round()
        decoded[name] = (integers * steps).view_as(tensor)
        arrays.append(integers.long().numpy())
        other += 2 * len(rows)
    return decoded, len(encode_integers(arrays)) + other


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write tests/benchmarks/results/NAME.json."""
    (HERE / 'results' / f'{name}.json').write_text(json.dumps(results, indent=2) + '\n')
