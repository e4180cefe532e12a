"""From a predictor to weights: the same few matrix products for training, loading and evaluation."""
from dataclasses import dataclass
from typing import Dict, Iterator, Sequence, Tuple, Union

import torch
from torch import Tensor
from tqdm.auto import tqdm

from timm_sbs.config import SbsConfig
from timm_sbs.encoding import coordinates, encode
from timm_sbs.errors import ConfigError
from timm_sbs.ordering import Permutations, fold_of, stack_kernel_indices
from timm_sbs.predictor import Predictor
from timm_sbs.targets import TargetSpec, from_kernels

__all__ = [
    'TokenGroup', 'GenerationPlan', 'make_plan', 'generate_kernels', 'split_weights', 'generate_weights',
    'relative_error',
]

# Places of one matrix product: keeps the activations of a block in the processor's caches, or a GPU busy.
BLOCK, DEVICE_BLOCK = 1024, 65536
PORTION = 1 << 22  # generated values that are in memory at once, if no layer has more


@dataclass(frozen=True)
class TokenGroup:
    """All layers whose kernels have the same size and are folded alike. They are generated together, by one head.

    Shapes: N kernels and M places of all layers of the group, G kernels at each place, T values, D coordinates
        coordinates [M, D] float64: layer after layer
        place_of_kernel [N]: row of each kernel in the predictor's outputs [M, G * T], seen as [M * G, T]
    """
    token_size: int
    fold: int
    specs: Tuple[TargetSpec, ...]
    places: Tuple[int, ...]  # of each layer
    coordinates: Tensor
    place_of_kernel: Tensor

    @property
    def num_places(self) -> int:
        return len(self.coordinates)

    @property
    def output_size(self) -> int:
        return self.token_size * self.fold

    def in_place_order(self, kernels: Tensor) -> Tensor:
        """Kernels [N, T] as a predictor generates them, [M, G * T]. Where a fold leaves a gap, there are zeros."""
        rows = kernels.new_zeros(self.num_places * self.fold, self.token_size)
        rows[self.place_of_kernel.to(rows.device)] = kernels
        return rows.view(self.num_places, self.output_size)

    def portions(self) -> Iterator[Tuple[Tuple[TargetSpec, ...], slice, Tensor]]:
        """Whole layers that are generated at once: their specs, their places, and rows of their kernels in these."""
        first = start = 0
        stop = kernels = 0
        for index, places in enumerate(self.places):
            stop += places
            last = index + 1 == len(self.places)
            if last or stop + self.places[index + 1] - start > PORTION // self.output_size:
                specs = self.specs[first:index + 1]
                count = sum(spec.num_kernels for spec in specs)
                rows = self.place_of_kernel[kernels:kernels + count] - start * self.fold
                yield specs, slice(start, stop), rows
                first, start, kernels = index + 1, stop, kernels + count


@dataclass(frozen=True)
class GenerationPlan:
    """Everything about a generation that does not depend on the predictor's parameters."""
    config: SbsConfig
    groups: Tuple[TokenGroup, ...]
    frequencies: Tensor

    def features(
            self,
            group: TokenGroup,
            rows: Union[slice, Tensor] = slice(None),
            device: torch.device = torch.device('cpu'),
    ) -> Tensor:
        """Features [rows, F] of some of a group's places, on a device. Indices of rows are on the CPU."""
        coordinates = group.coordinates[rows]
        if device.type != 'mps':  # which has no float64
            coordinates = coordinates.to(device)
        return encode(coordinates, self.frequencies, self.config.encoding).to(device)


def make_plan(
        config: SbsConfig,
        specs: Sequence[TargetSpec],
        permutations: Sequence[Permutations],
        frequencies: Tensor,
) -> GenerationPlan:
    """Plan the generation of layers ``specs``, ordered by ``permutations`` (one entry for each layer).

    Raises:
        ConfigError: The frequencies do not fit the encoding.
    """
    if tuple(frequencies.shape) != config.frequencies_shape:
        raise ConfigError(
            f'The encoding needs frequencies of shape {list(config.frequencies_shape)}, '
            f'but got {list(frequencies.shape)}.')
    all_coordinates = coordinates(specs, config.ordering, config.encoding)
    kinds = [(spec.token_size, fold_of(spec, config.ordering)) for spec in specs]
    groups = []
    for token_size, fold in sorted(set(kinds)):
        layers = [i for i, kind in enumerate(kinds) if kind == (token_size, fold)]
        members = tuple(specs[i] for i in layers)
        places = stack_kernel_indices([permutations[i] for i in layers], members, config.ordering)
        groups.append(TokenGroup(
            token_size, fold, members, tuple(len(all_coordinates[i]) for i in layers),
            torch.cat([all_coordinates[i] for i in layers]), torch.from_numpy(places)))
    return GenerationPlan(config, tuple(groups), frequencies)


@torch.no_grad()
def generate_kernels(predictor: Predictor, plan: GenerationPlan, group: TokenGroup, places: slice) -> Tensor:
    """Kernels at some places of a group, without autograd and in blocks of bounded memory: [places, G * T].

    They are on the predictor's device, and so are all intermediate results. Their precision is the predictor's,
    whatever autocast or default dtype the caller has set.
    """
    device = predictor.output_scale.device
    block = BLOCK if device.type == 'cpu' else DEVICE_BLOCK
    kernels = predictor.output_scale.new_empty(places.stop - places.start, group.output_size)
    with torch.autocast(device.type, enabled=False):
        for out, start in zip(kernels.split(block), range(places.start, places.stop, block)):
            rows = slice(start, min(start + block, places.stop))
            predictor.write(plan.features(group, rows, device), out)
    return kernels


def split_weights(kernels: Tensor, specs: Sequence[TargetSpec], place_of_kernel: Tensor) -> Dict[str, Tensor]:
    """Weights of some layers of a group, by name, from their kernels in place order [M, G * T]. Differentiable.

    ``place_of_kernel`` is on the device of the kernels: the group's own for all its layers, or that of a portion. Each
    weight has memory of its own: who copies one does not copy all.
    """
    rows = kernels.reshape(-1, specs[0].token_size)
    parts = place_of_kernel.split([spec.num_kernels for spec in specs])
    return {spec.name: from_kernels(rows[part], spec).contiguous() for part, spec in zip(parts, specs)}


def generate_weights(predictor: Predictor, plan: GenerationPlan) -> Dict[str, Tensor]:
    """All generated weights by name, float32 on the predictor's device, without autograd.

    Memory beside the weights is that of a few layers' kernels. A bar is shown if it takes more than two seconds.
    """
    weights = {}
    with tqdm(total=sum(group.num_places for group in plan.groups), desc='generating weights', unit='place',
              unit_scale=True, delay=2, leave=False, disable=None) as progress:
        for group in plan.groups:
            for specs, places, rows in group.portions():
                kernels = generate_kernels(predictor, plan, group, places)
                weights.update(split_weights(kernels, specs, rows.to(kernels.device)))
                progress.update(places.stop - places.start)
    return {name: weights[name] for name in plan.config.generated}


def relative_error(kernels: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Squared error over squared norm, over all tensors of both sequences, summed in float64."""
    squares = sum(float((k - t.to(k.device)).double().square().sum()) for k, t in zip(kernels, targets))
    return squares / sum(float(t.double().square().sum()) for t in targets)
