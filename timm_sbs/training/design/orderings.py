"""Kernel orderings of a whole network, found on all cores."""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch
from accelerate import Accelerator
from torch import nn

from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.progress import Progress
from timm_sbs.predictor.ordering import Permutations
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.design.paths import find_permutations

__all__ = ['find_orderings']


def find_orderings(
        original: nn.Module,
        specs: Sequence[WeightSpec],
        ordering: OrderingConfig,
        accelerator: Accelerator | None = None,
) -> tuple[Permutations, ...]:
    """Kernel orderings of all generated weights, from the original weights.

    With several processes the main one finds them, on all cores, and tells the others. Layers are worked on at the same
    time, the largest first.
    """
    def find() -> tuple[Permutations, ...]:
        largest_first = sorted(range(len(specs)), key=lambda i: -specs[i].num_kernels)
        found: dict[int, Permutations] = {}
        kernels = sum(spec.num_kernels for spec in specs)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool, Progress(kernels, 'ordering', 'kernel') as progress:
            layers = {pool.submit(
                find_permutations, original.get_parameter(specs[i].name), specs[i], ordering): i for i in largest_first}
            for layer in as_completed(layers):
                found[layers[layer]] = layer.result()
                progress.update(specs[layers[layer]].num_kernels)
        return tuple(found[i] for i in range(len(specs)))

    return find() if accelerator is None else decided_once(find, accelerator)
