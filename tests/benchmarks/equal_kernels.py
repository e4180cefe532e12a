"""Orderings of a ResNet-18 many of whose kernels are equal, or nearly so, in CPU seconds of one thread.

    python tests/benchmarks/equal_kernels.py --weights-18 resnet18.safetensors

1. The network as it is.
2. Its last block of 256 distinct kernels (k-means), as product quantization makes them, and with noise of a millionth
   of the standard deviation.
3. Pruned: the kernels of least norm of each 3x3 layer are zero, with and without that noise.

Beside each stands the time of the k-d tree queries alone that find the near neighbours of the distinct kernels, and the
length of all paths together. Takes about 3 minutes of CPU time.
"""
import argparse
import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ['TIMM_SBS_CACHE'] = 'off'

import numpy as np
import torch
from common import write_results
from scipy.spatial import cKDTree

from timm_sbs.artifact.original import load_original
from timm_sbs.common.config import OrderingConfig
from timm_sbs.predictor.selection import select_weights
from timm_sbs.predictor.tokens import to_kernels
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.paths import INEXACTNESS, NEIGHBOURS, path_length
from timm_sbs.training.run.environment import environment

CODEWORDS = 256
LLOYD_STEPS = 8
NOISE = 1e-6  # of the standard deviation of a layer's weights
LAST_BLOCK, ALL = 'layer4.1.', 'layer'

Kernels = np.ndarray


def quantized(kernels: Kernels) -> Kernels:
    """Each kernel replaced by the nearest of 256 codewords."""
    codewords = kernels[np.random.default_rng(0).choice(len(kernels), CODEWORDS, replace=False)]
    for _ in range(LLOYD_STEPS):
        nearest = cKDTree(codewords).query(kernels)[1]
        sums = np.stack([np.bincount(nearest, column, CODEWORDS) for column in kernels.T], axis=1)
        codewords = sums / np.maximum(np.bincount(nearest, minlength=CODEWORDS), 1)[:, None]
    return codewords[cKDTree(codewords).query(kernels)[1]]


def pruned(share: float) -> Callable[[Kernels], Kernels]:
    def prune(kernels: Kernels) -> Kernels:
        norms = np.linalg.norm(kernels, axis=1)
        return np.where((norms > np.quantile(norms, share))[:, None], kernels, 0)
    return prune


def noisy(kernels: Kernels) -> Kernels:
    return kernels + NOISE * kernels.std() * np.random.default_rng(1).standard_normal(kernels.shape)


CASES: dict[str, tuple[str, list[Callable[[Kernels], Kernels]]]] = {
    'as it is': (ALL, []),
    'last block of 256 distinct kernels': (LAST_BLOCK, [quantized]),
    'last block of 256 distinct kernels, with noise': (LAST_BLOCK, [quantized, noisy]),
    '50 % of the kernels zero': (ALL, [pruned(.5)]),
    '80 % of the kernels zero': (ALL, [pruned(.8)]),
    '95 % of the kernels zero': (ALL, [pruned(.95)]),
    '80 % of the kernels zero, with noise': (ALL, [pruned(.8), noisy])}


def cpu_seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def query(points: Kernels) -> None:
    """Near neighbours of all points, as the path search asks for them."""
    tree = cKDTree(points)
    tree.query(points[tree.indices], k=min(NEIGHBOURS + 1, len(points)), eps=INEXACTNESS)


def measured(original: torch.nn.Module, prefix: str, changes: list[Callable[[Kernels], Kernels]]) -> dict[str, Any]:
    model = copy.deepcopy(original)
    specs = select_weights(model)
    for spec in specs:
        weight = model.get_parameter(spec.name)
        if spec.token_size == 9 and spec.name.startswith(prefix):
            kernels = weight.reshape(-1, 9).double().numpy()
            for change in changes:
                kernels = change(kernels)
            weight.copy_(torch.from_numpy(kernels).view_as(weight))
    seconds, orderings = cpu_seconds(lambda: find_orderings(model, specs, OrderingConfig()))
    length, distinct, tree_seconds = 0., 0, 0.
    for spec, permutations in zip(specs, orderings):
        points = to_kernels(model.get_parameter(spec.name), spec).double().numpy()
        once = points[np.sort(np.unique(points, axis=0, return_index=True)[1])]
        length += path_length(points, permutations[0][0])
        distinct += len(once)
        tree_seconds += cpu_seconds(lambda: query(once))[0]
    return {
        'kernels': sum(spec.num_kernels for spec in specs), 'distinct': distinct, 'cpu_seconds': round(seconds, 1),
        'tree_query_cpu_seconds': round(tree_seconds, 1), 'length': round(length, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights-18', required=True, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    original = load_original('resnet18', str(args.weights_18)).requires_grad_(False)
    find_orderings(original, select_weights(original)[:1], OrderingConfig())  # compiles
    results = {}
    for name, (prefix, changes) in CASES.items():
        results[name] = measured(original, prefix, changes)
        print(name, results[name], flush=True)
    command = 'python tests/benchmarks/equal_kernels.py --weights-18 FILE'
    write_results('equal_kernels', {'command': command, 'seed': 0, 'resnet18': results, **environment()})


if __name__ == '__main__':
    main()
