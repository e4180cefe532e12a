"""The generator: all generated weights of a network, from the coordinates of their kernels."""
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_sbs.common.config import GeneratorConfig
from timm_sbs.common.products import float32_products
from timm_sbs.common.tensors import as_float64, float64_device
from timm_sbs.predictor.encoding import coordinates, draw_frequencies, encode
from timm_sbs.predictor.network import Predictor
from timm_sbs.predictor.ordering import Permutations, fold_of, output_sizes, stack_kernel_indices
from timm_sbs.predictor.tokens import WeightSpec, from_kernels, to_kernels

__all__ = ['TokenGroup', 'Generator', 'split_weights', 'relative_error']

# Positions of one matrix product: keeps the activations of a block in the processor's caches, or a GPU busy.
BLOCK, DEVICE_BLOCK = 1024, 65536


@dataclass(frozen=True, eq=False)
class TokenGroup:
    """All layers whose kernels have the same size and are folded alike. One head generates them together.

    Shapes: N kernels and M positions of all layers of the group, G kernels at each position, T values, D coordinates
        coordinates [M, D] float64: layer after layer
        position_of_kernel [N]: row of each kernel in the predictor's outputs [M, G * T], seen as [M * G, T]
    """
    token_size: int
    fold: int
    specs: tuple[WeightSpec, ...]
    positions: tuple[int, ...]  # of each layer
    coordinates: Tensor
    position_of_kernel: Tensor

    @property
    def num_positions(self) -> int:
        return len(self.coordinates)

    @property
    def output_size(self) -> int:
        return self.token_size * self.fold

    def in_position_order(self, weights: Mapping[str, Tensor], position_of_kernel: Tensor | None = None) -> Tensor:
        """Kernels of the group's weights as a predictor generates them, [M, G * T]. Gaps of a fold hold zeros.

        ``position_of_kernel`` may be a copy on the weights' device, which saves repeated calls the transfer.
        """
        kernels = torch.cat([to_kernels(weights[spec.name], spec) for spec in self.specs])
        rows = kernels.new_zeros(self.num_positions * self.fold, self.token_size)
        indices = self.position_of_kernel if position_of_kernel is None else position_of_kernel
        rows[indices.to(rows.device)] = kernels
        return rows.view(self.num_positions, self.output_size)


class Generator(nn.Module):
    """Generates the weights ``specs``: coordinates -> features -> predictor -> kernels -> weights.

    Everything but the predictor's parameters is fixed. Calling it makes all weights, without autograd, in blocks of
    bounded memory.

    Example:
        >>> specs = select_weights(model)
        >>> generator = Generator.fresh(config, specs, find_orderings(model, specs, config.ordering), seed=0)
        >>> generator()['layer1.0.conv1.weight'].shape
        torch.Size([64, 64, 3, 3])

    Attributes:
        config: Ordering, encoding, predictor.
        specs: The generated weights, in the order of the layer coordinate.
        permutations: The kernel ordering of each.
        frequencies: Of the encoding [K, D], float32.
        predictor: The perceptron.
        groups: What is generated together.
    """
    frequencies: Tensor
    __call__: Callable[..., dict[str, Tensor]]  # without arguments

    def __init__(
            self,
            config: GeneratorConfig,
            specs: Sequence[WeightSpec],
            permutations: Sequence[Permutations],
            frequencies: Tensor,
            predictor: Predictor,
    ) -> None:
        super().__init__()
        self.config = config
        self.specs = tuple(specs)
        self.permutations = tuple(permutations)
        self.groups = _groups(config, self.specs, self.permutations)
        self.register_buffer('frequencies', frequencies, persistent=False)
        self.predictor = predictor

    @classmethod
    def fresh(
            cls,
            config: GeneratorConfig,
            specs: Sequence[WeightSpec],
            permutations: Sequence[Permutations],
            seed: int,
            weights: Mapping[str, Tensor] | None = None,
    ) -> 'Generator':
        """A generator with a predictor that is initialised from a seed. The frequencies have their own, in ``config``.

        ``weights`` are the originals: each layer is learned in its own scale, the root mean square of its weight.
        """
        torch.manual_seed(seed)
        frequencies = draw_frequencies(config)
        predictor = Predictor(config.feature_width, output_sizes(specs, config.ordering), config.predictor)
        if weights is not None and specs:
            scales = [as_float64(weights[spec.name].detach()).square().mean().sqrt() for spec in specs]
            predictor.output_scale.copy_(torch.stack(scales))
        return cls(config, specs, permutations, frequencies, predictor)

    def with_predictor(self, predictor: Predictor) -> 'Generator':
        """The same generation by another predictor of the same shape."""
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        other._modules = {'predictor': predictor}
        return other

    @property
    def names(self) -> tuple[str, ...]:
        """Of the generated weights."""
        return tuple(spec.name for spec in self.specs)

    @property
    def scales(self) -> dict[str, Tensor]:
        """What the predictor's kernels are multiplied by, of each generated weight: [] by name."""
        return dict(zip(self.names, self.predictor.output_scale))

    @property
    def device(self) -> torch.device:
        return self.predictor.output_scale.device

    @property
    def num_parameters(self) -> int:
        """Trained parameters."""
        return sum(p.numel() for p in self.predictor.parameters())

    def features(self, group: TokenGroup, rows: slice | Tensor = slice(None)) -> Tensor:
        """Features [rows, F] of some of a group's positions, on the generator's device. Indices are on the CPU."""
        return self.encoded(group.coordinates[rows].to(float64_device(self.device)))

    def encoded(self, coordinates: Tensor) -> Tensor:
        """Features [rows, F] of coordinates [rows, D] in float64, on the generator's device."""
        return encode(coordinates, self.frequencies, self.config.encoding).to(self.device)

    @torch.no_grad()
    def forward(self) -> dict[str, Tensor]:
        """All generated weights by name, float32 on the generator's device, without autograd. Memory beside the weights
        is that of one layer's kernels.

        Their precision is the predictor's, whatever autocast or precision of matrix products the caller has set.
        """
        block, weights = BLOCK if self.device.type == 'cpu' else DEVICE_BLOCK, dict[str, Tensor]()
        with torch.autocast(self.device.type, enabled=False), float32_products('ieee'):
            for group in self.groups:
                stop = 0
                rows = group.position_of_kernel.to(self.device).split([spec.num_kernels for spec in group.specs])
                for spec, count, part in zip(group.specs, group.positions, rows):
                    start, stop = stop, stop + count
                    blocks = [slice(first, min(first + block, stop)) for first in range(start, stop, block)]
                    kernels = torch.cat(
                        [self.predictor(self.features(group, one), group.output_size) for one in blocks])
                    weights.update(split_weights(kernels, (spec,), part - start * group.fold, self.scales))
        return {name: weights[name] for name in self.names}


def _groups(
        config: GeneratorConfig,
        specs: Sequence[WeightSpec],
        permutations: Sequence[Permutations],
) -> tuple[TokenGroup, ...]:
    all_coordinates = coordinates(specs, config.ordering, config.encoding)
    kinds = [(spec.token_size, fold_of(spec, config.ordering)) for spec in specs]
    groups: list[TokenGroup] = []
    for token_size, fold in sorted(set(kinds)):
        layers = [i for i, kind in enumerate(kinds) if kind == (token_size, fold)]
        members = tuple(specs[i] for i in layers)
        rows = stack_kernel_indices([permutations[i] for i in layers], members, config.ordering)
        groups.append(TokenGroup(
            token_size, fold, members, tuple(len(all_coordinates[i]) for i in layers),
            torch.cat([all_coordinates[i] for i in layers]), torch.from_numpy(rows)))
    return tuple(groups)


def split_weights(
        kernels: Tensor,
        specs: Sequence[WeightSpec],
        position_of_kernel: Tensor,
        scales: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Weights of some layers of a group, by name, from their kernels in position order [M, G * T]. Differentiable.

    ``scales`` are the generator's. ``position_of_kernel`` is on the device of the kernels: the group's own for all its
    layers, or a part of it. Weights do not share storage, so that a copy of one is not a copy of all.
    """
    rows = kernels.reshape(-1, specs[0].token_size)
    parts = position_of_kernel.split([spec.num_kernels for spec in specs])
    return {spec.name: from_kernels(rows.index_select(0, part).mul_(scales[spec.name]), spec).contiguous()
            for part, spec in zip(parts, specs)}


def relative_error(weights: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> float:
    """Squared error of each of ``weights`` over the squared norm of the original of the same name: the mean over all
    values, so that scales of layers do not matter. An error in a weight of zeros counts as 1."""
    total, values = 0., 0
    for name, weight in weights.items():
        exact = as_float64(weight)
        original = as_float64(originals[name].detach()).to(exact.device)
        error, norm = float((exact - original).square().sum()), float(original.square().sum())
        total += weight.numel() * (error / norm if norm else error > 0)
        values += weight.numel()
    return total / max(values, 1)
