"""Generators of weights of all kinds, without a network."""
import numpy as np
import torch

from timm_sbs.common.config import EncodingConfig, GeneratorConfig, OrderingConfig, PredictorConfig
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.ordering import permutation_shapes
from timm_sbs.predictor.tokens import WeightSpec

# Equal layers, 7x7, 31x31 in rows, 1x11, 1x1 and linear with a last token that is filled up, depthwise, 1d.
SHAPES = [(16, 8, 3, 3), (6, 4, 7, 7), (8, 16, 3, 3), (3, 2, 31, 31), (5, 9, 1, 11), (10, 20, 1, 1), (20, 12),
          (24, 1, 5, 5), (16, 8, 3, 3), (7, 6, 3), (300, 1, 3, 3)]
ORDERINGS = [('layer', 'path'), ('layer', 'grid'), ('filter', 'grid'), ('axes', 'grid'), ('nothing', 'grid')]


def generator_of(order_over='layer', coordinates='path', max_positions=0, kind='random_fourier', activation='gelu',
                 shapes=SHAPES):
    """With random orderings and numbers, the same each time."""
    ordering = OrderingConfig(order_over, coordinates, max_positions)
    specs = [WeightSpec(f'layers.{index}.weight', shape) for index, shape in enumerate(shapes)]
    rng = np.random.default_rng(0)
    permutations = [tuple(np.stack([rng.permutation(n) for _ in range(rows)])
                          for rows, n in permutation_shapes(spec, ordering)) for spec in specs]
    encoding = EncodingConfig(kind, num_frequencies=9, levels=7)
    config = GeneratorConfig(ordering, encoding, PredictorConfig(12, 3, activation, extra=2))
    torch.manual_seed(0)
    weights = {spec.name: torch.randn(spec.shape) * .1 * (1 + index) for index, spec in enumerate(specs)}
    return Generator.fresh(config, specs, permutations, 0, weights).requires_grad_(False)
