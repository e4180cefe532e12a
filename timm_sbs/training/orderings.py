"""Kernel orderings of a whole network: found on all cores, once for each content."""
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm.auto import tqdm

from timm_sbs.cache import content_key, load_cached, store_cached
from timm_sbs.config import OrderingConfig
from timm_sbs.errors import OrderingError
from timm_sbs.ordering import Permutations, check_permutations
from timm_sbs.targets import TargetSpec

__all__ = ['find_orderings']

KIND = 'orderings'
SLOW = 100_000  # weights of a layer: smaller ones are ordered as fast as they are looked up


def find_orderings(
        original: nn.Module,
        specs: Sequence[TargetSpec],
        ordering: OrderingConfig,
        accelerator: Optional[Accelerator] = None,
) -> Tuple[Permutations, ...]:
    """Kernel orderings of all generated weights, from the original weights.

    With several processes the main one finds them, on all cores, and tells the others. Those of large layers are kept
    in the cache (:mod:`timm_sbs.cache`).
    """
    found: List[Any] = [None]
    if accelerator is None or accelerator.is_main_process:
        found[0] = _find_all([original.get_parameter(spec.name) for spec in specs], specs, ordering)
    if accelerator is not None and accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _find_all(
        weights: Sequence[Tensor],
        specs: Sequence[TargetSpec],
        ordering: OrderingConfig,
) -> Tuple[Permutations, ...]:
    """Layers are worked on at the same time, the largest first."""
    largest_first = sorted(range(len(specs)), key=lambda i: -specs[i].num_kernels)
    found: Dict[int, Permutations] = {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, tqdm(
            total=sum(spec.num_kernels for spec in specs), desc='ordering', unit='kernel', unit_scale=True,
            disable=None) as progress:
        layers = {pool.submit(_find, weights[i], specs[i], ordering): i for i in largest_first}
        for layer in as_completed(layers):
            found[layers[layer]] = layer.result()
            progress.update(specs[layers[layer]].num_kernels)
    return tuple(found[i] for i in range(len(specs)))


def _find(weight: Tensor, spec: TargetSpec, ordering: OrderingConfig) -> Permutations:
    from timm_sbs.paths import VERSION, find_permutations  # needs the 'train' extra

    if spec.num_weights < SLOW or ordering.granularity == 'none':
        return find_permutations(weight, spec, ordering)
    values = weight.detach().float().cpu().contiguous().numpy()
    key = content_key([
        f'version {VERSION}, {spec.shape}, tokens of {spec.token_size}, {ordering.granularity}', values.data.cast('B')])
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
    store_cached(KIND, key, tensors, f'{spec.name}, {spec.num_kernels} kernels, {ordering.granularity}')
    return permutations
