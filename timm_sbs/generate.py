"""From a predictor to weights: the same few matrix products for training, loading and evaluation."""
from dataclasses import dataclass
from typing import Dict, Sequence, Tuple

import torch
from torch import Tensor

from timm_sbs.config import SbsConfig
from timm_sbs.encoding import coordinates, encode
from timm_sbs.errors import ConfigError
from timm_sbs.ordering import Permutations, stack_kernel_indices
from timm_sbs.predictor import Predictor
from timm_sbs.targets import TargetSpec, from_kernels

__all__ = [
    'TokenGroup', 'GenerationPlan', 'make_plan', 'generate_kernels', 'split_weights', 'generate_weights',
    'relative_error',
]

# Kernels of one matrix product while loading: keeps the activations of a block in the processor's caches.
BLOCK = 8192


@dataclass(frozen=True)
class TokenGroup:
    """All layers whose kernels have the same size. They share a head and are generated together.

    Shapes: N = kernels of all layers of the group, D coordinates
        coordinates [N, D] float64: in place order, layer after layer
        place_of_kernel [N]: row of ``coordinates`` that generates each kernel
    """
    token_size: int
    specs: Tuple[TargetSpec, ...]
    coordinates: Tensor
    place_of_kernel: Tensor

    @property
    def num_kernels(self) -> int:
        return len(self.place_of_kernel)


@dataclass(frozen=True)
class GenerationPlan:
    """Everything about a generation that does not depend on the predictor's parameters."""
    config: SbsConfig
    groups: Tuple[TokenGroup, ...]
    frequencies: Tensor

    def features(self, group: TokenGroup, rows: slice = slice(None)) -> Tensor:
        """Features [rows, F] of some of a group's places."""
        return encode(group.coordinates[rows], self.frequencies, self.config.encoding)


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
    all_coordinates = coordinates(specs, config.ordering, config.encoding).split([s.num_kernels for s in specs])
    groups = []
    for token_size in sorted({spec.token_size for spec in specs}):
        layers = [i for i, spec in enumerate(specs) if spec.token_size == token_size]
        members = tuple(specs[i] for i in layers)
        places = stack_kernel_indices([permutations[i] for i in layers], members, config.ordering)
        groups.append(TokenGroup(
            token_size, members, torch.cat([all_coordinates[i] for i in layers]), torch.from_numpy(places)))
    return GenerationPlan(config, tuple(groups), frequencies)


@torch.no_grad()
def generate_kernels(predictor: Predictor, plan: GenerationPlan, group: TokenGroup) -> Tensor:
    """Kernels of a group in place order, without autograd and in blocks of bounded memory: [N, T] on the CPU."""
    device = predictor.output_scale.device
    kernels = torch.empty(group.num_kernels, group.token_size)
    for start in range(0, group.num_kernels, BLOCK):
        rows = slice(start, start + BLOCK)
        kernels[rows] = predictor(plan.features(group, rows).to(device), group.token_size).cpu()
    return kernels


def split_weights(kernels: Tensor, group: TokenGroup, place_of_kernel: Tensor) -> Dict[str, Tensor]:
    """Weights of a group's layers, by name, from its kernels in place order [N, T]. Differentiable.

    ``place_of_kernel`` is the group's own, on the device of the kernels.
    """
    ordered = kernels[place_of_kernel]
    parts = ordered.split([spec.num_kernels for spec in group.specs])
    return {spec.name: from_kernels(part, spec) for part, spec in zip(parts, group.specs)}


def generate_weights(predictor: Predictor, plan: GenerationPlan) -> Dict[str, Tensor]:
    """All generated weights by name, float32 on the CPU, without autograd. Each has memory of its own: who copies one
    does not copy all."""
    weights = {}
    for group in plan.groups:
        split = split_weights(generate_kernels(predictor, plan, group), group, group.place_of_kernel)
        weights.update({name: weight.clone(memory_format=torch.contiguous_format) for name, weight in split.items()})
    return {name: weights[name] for name in plan.config.generated}


def relative_error(kernels: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Squared error over squared norm, over all tensors of both sequences, summed in float64."""
    squares = sum(float((k - t).double().square().sum()) for k, t in zip(kernels, targets))
    return squares / sum(float(t.double().square().sum()) for t in targets)
