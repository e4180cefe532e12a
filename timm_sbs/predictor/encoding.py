"""Coordinates of kernels, and the features that a predictor reads: UOS-RFF, plain random Fourier features, NeRN's."""
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from timm_sbs.common.config import EncodingConfig, GeneratorConfig, OrderingConfig
from timm_sbs.predictor.ordering import axis_sizes
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['FREQUENCY_STEPS', 'FREQUENCY_LIMIT', 'draw_frequencies', 'layer_axes', 'coordinates', 'encode']

FREQUENCY_STEPS = 4096  # frequencies are multiples of 1/4096
FREQUENCY_LIMIT = 32767  # of these steps


def draw_frequencies(config: GeneratorConfig) -> Tensor:
    """Random frequencies b ~ N(0, 1) of UOS-RFF and RFF: [num_frequencies, num_coordinates], float32.

    They are multiples of 1/4096, which 16 bits store exactly; with coarser ones, distant kernels of a long path would
    have the same features. They are drawn once, when a predictor is made, and stored in the artifact, for random
    streams differ between library versions. 'positional' has none: [0, num_coordinates].
    """
    drawn = torch.randn(config.frequencies_shape, generator=torch.Generator().manual_seed(config.encoding.seed))
    return (drawn * FREQUENCY_STEPS).round().clamp(-FREQUENCY_LIMIT, FREQUENCY_LIMIT) / FREQUENCY_STEPS


def layer_axes(
        specs: Sequence[WeightSpec], ordering: OrderingConfig, encoding: EncodingConfig,
) -> list[tuple[float, tuple[int, ...], tuple[float, ...]]]:
    """Coordinate of each layer, and along each axis inside it the number of positions, and what one adds.

    positional (NeRN, arXiv 2212.13554): the integer indices (layer, position) or (layer, row, column).

    random_fourier: (s_layer * l / L, s_1 * t_1, ...), t in [0, 1) the position along an axis of n positions, and
    s = c * n^p: our reading of UOS-RFF (arXiv 2509.07373), whose abstract says that the bandwidth is adapted to the
    'layer-wise parameter count'. For a path, n is the layer's number of kernels. With p = 0 it is plain RFF.
    """
    axes = []
    for index, spec in enumerate(specs):
        sizes = axis_sizes(spec, ordering)
        if encoding.kind == 'positional':
            axes.append((float(index), sizes, (1.,) * len(sizes)))
        else:
            scales = tuple(encoding.bandwidth * n ** encoding.bandwidth_exponent / n for n in sizes)
            axes.append((encoding.layer_bandwidth * index / len(specs), sizes, scales))
    return axes


def coordinates(specs: Sequence[WeightSpec], ordering: OrderingConfig, encoding: EncodingConfig) -> list[Tensor]:
    """Coordinates of every position of each layer, as :func:`encode` takes them: [positions, D], float64."""
    parts = []
    for layer, sizes, scales in layer_axes(specs, ordering, encoding):
        inside = np.indices(sizes).reshape(len(sizes), -1).T
        parts.append(torch.from_numpy(np.concatenate(
            [np.full((len(inside), 1), layer), inside * np.array(scales)], axis=1)))
    return parts


def encode(coordinates: Tensor, frequencies: Tensor, config: EncodingConfig) -> Tensor:
    """Features of coordinates: sines, then cosines.

    Angles are computed in float64 and reduced to one turn before they are rounded: a path of 262,144 positions goes
    through thousands of turns, where float32 would not be exact enough.

    Shapes: N kernels, D coordinates, K frequencies or levels
        coordinates [N, D] float64, frequencies [K, D] -> features [N, 2K] (random_fourier)
        coordinates [N, D] float64 -> features [N, 2 * K * D] (positional), float32
    """
    if config.kind == 'positional':
        levels = coordinates.new_tensor([0.5 * config.base ** k for k in range(config.levels)])
        turns = (coordinates[:, :, None] * levels).flatten(1)
    else:
        turns = coordinates @ frequencies.to(coordinates).T
    angles = ((turns - turns.round()) * (2 * math.pi)).float()
    return torch.cat([angles.sin(), angles.cos()], dim=1)
