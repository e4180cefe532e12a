"""Bytes of an artifact, before anything is trained."""
import dataclasses
import math
from typing import Any, Dict, Mapping, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from timm_sbs.artifact import Artifact, artifact_sizes
from timm_sbs.base_model import describe_base, kept_names
from timm_sbs.config import SbsConfig
from timm_sbs.encoding import draw_frequencies
from timm_sbs.ordering import Permutations, output_sizes, permutation_shapes
from timm_sbs.predictor import Predictor
from timm_sbs.targets import TargetSpec

__all__ = ['RESULTS_BYTES', 'random_orderings', 'forecast_sizes']

RESULTS_BYTES = 1024  # allowed for in config.json, for results that are not known yet


def random_orderings(specs: Sequence[TargetSpec], config: SbsConfig) -> Tuple[Permutations, ...]:
    """Orderings at random, which take as many bytes as any others."""
    rng = np.random.default_rng(0)
    return tuple(
        tuple(rng.permuted(np.tile(np.arange(n), (rows, 1)), axis=1)
              for rows, n in permutation_shapes(spec, config.ordering))
        for spec in specs)


def forecast_sizes(
        config: SbsConfig,
        pretrained_cfg: Mapping[str, Any],
        specs: Sequence[TargetSpec],
        state: Mapping[str, Tensor],
) -> Dict[str, Any]:
    """Sizes of the artifact that a fit with this configuration writes, from one with random weights.

    Exact for a predictor that is stored as floats, up to what results take in config.json. A quantized one takes as
    many bits for a weight as its configuration says, to within some per cent.

    Args:
        config: Configuration of the predictor.
        pretrained_cfg: timm's description of the original.
        specs: The generated weights.
        state: The original's state dict, whose kept tensors are coded.

    Returns:
        The size ledger, with ``config`` (of config.json) and ``total``.
    """
    base_state = describe_base(config.base, config.base_args, pretrained_cfg)
    predictor = Predictor(config.feature_width, output_sizes(specs, config.ordering), config.predictor)
    generator = torch.Generator().manual_seed(0)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]), generator=generator)
    return artifact_sizes(Artifact(
        config=dataclasses.replace(config, results={'': ' ' * RESULTS_BYTES}),
        pretrained_cfg=dict(pretrained_cfg),
        specs=tuple(specs),
        predictor=predictor,
        frequencies=draw_frequencies(config.encoding, config.num_coordinates),
        permutations=random_orderings(specs, config),
        kept={name: state[name] for name in kept_names(base_state, config.generated)},
        base_state=base_state,
    ))
