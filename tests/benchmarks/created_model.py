"""The created model beside the original: time of a forward pass. Its loading is measured by load.py.

    python tests/benchmarks/created_model.py

Measures interleaved and takes medians, so that both networks see the same machine. Takes about 20 seconds.
"""
import json
import statistics
from collections.abc import Callable

import timm
import torch
from common import RESNET20, seconds, write_results

from timm_sbs.cli.demo import MODEL
from timm_sbs.training.run.environment import environment

REPEATS, SEED = 100, 0


def interleaved(first: Callable[[], object], second: Callable[[], object]) -> list[tuple[float, float]]:
    """Times of both calls, which take turns in going first."""
    pairs = []
    for repeat in range(REPEATS):
        if repeat % 2:
            pairs.append((seconds(first), seconds(second)))
        else:
            pairs.append((seconds(second), seconds(first))[::-1])
    return pairs


@torch.inference_mode()
def main() -> None:
    generated = timm.create_model(MODEL, pretrained=True).eval()
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20).eval()
    torch.manual_seed(SEED)
    images = torch.randn(32, 3, 32, 32)
    forward = interleaved(lambda: generated(images), lambda: original(images))
    median = statistics.median
    results = {
        'command': 'python tests/benchmarks/created_model.py',
        'seed': SEED, 'repeats': REPEATS,
        'forward_ratio': round(median(a / b for a, b in forward), 3),
        'forward_ms': {
            'generated': round(1000 * median(a for a, _ in forward), 2),
            'original': round(1000 * median(b for _, b in forward), 2)},
        **environment(),
    }
    write_results('created_model_resnet20', results)
    print(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
