"""Kernel orderings of a whole network: found on all cores, once for each content."""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.common.cache import content_key, load_cached, store_cached
from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import OrderingError
from timm_sbs.common.progress import Progress
from timm_sbs.predictor.ordering import Permutations, check_permutations
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['find_orderings']

KIND = 'orderings'
SLOW = 100_000  # weights of a layer: smaller ones are ordered as fast as they are looked up


def find_orderings(
        original: nn.Module,
        specs: Sequence[WeightSpec],
        ordering: OrderingConfig,
        accelerator: Accelerator | None = None,
) -> tuple[Permutations, ...]:
    """Kernel orderings of all generated weights, from the original weights.

    With several processes the main one finds them, on all cores, and tells the others. Those of large layers are kept
    in the cache (:mod:`timm_sbs.common.cache`).
    """
    def find() -> tuple[Permutations, ...]:
        return _find_all([original.get_parameter(spec.name) for spec in specs], specs, ordering)

    return find() if accelerator is None else decided_once(find, accelerator)


def _find_all(
        weights: Sequence[Tensor],
        specs: Sequence[WeightSpec],
        ordering: OrderingConfig,
) -> tuple[Permutations, ...]:
    """Layers are worked on at the same time, the largest first."""
    largest_first = sorted(range(len(specs)), key=lambda i: -specs[i].num_kernels)
    found: dict[int, Permutations] = {}
    kernels = sum(spec.num_kernels for spec in specs)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, Progress(kernels, 'ordering', 'kernel') as progress:
        layers = {pool.submit(_find, weights[i], specs[i], ordering): i for i in largest_first}
        for layer in as_completed(layers):
            found[layers[layer]] = layer.result()
            progress.update(specs[layers[layer]].num_kernels)
    return tuple(found[i] for i in range(len(specs)))


def _find(weight: Tensor, spec: WeightSpec, ordering: OrderingConfig) -> Permutations:
    from timm_sbs.training.design.paths import (  # needs the 'train' extra
        VERSION,
        find_permutations,
    )

    if spec.num_weights < SLOW or ordering.order_over == 'nothing':
        return find_permutations(weight, spec, ordering)
    values = weight.detach().float().cpu().contiguous().numpy()
    key = content_key([
        f'version {VERSION}, {spec.shape}, tokens of {spec.token_size}, {ordering.order_over}', values.data.cast('B')])
    cached = load_cached(KIND, key)
    if cached is not None:
        permutations = tuple(cached[name].long().numpy() for name in sorted(cached))
        try:
            check_permutations(permutations, spec, ordering)
            return permutations
        except OrderingError:
            pass  # damaged: found anew
    permutations = find_permutations(weight, spec, ordering)
    tensors = {str(i): torch.from_numpy(rows).int() for i, rows in enumerate(permutations)}
    store_cached(KIND, key, tensors, f'{spec.name}, {spec.num_kernels} kernels, {ordering.order_over}')
    return permutations
