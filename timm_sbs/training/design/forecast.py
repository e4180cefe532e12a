"""Bytes of an artifact, before anything is trained."""
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import artifact_ledger
from timm_sbs.codec.permutations import usual_coded_bytes
from timm_sbs.common.config import GeneratorConfig, StorageConfig
from timm_sbs.predictor.base_model import BaseModel, kept_names
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.ordering import permutation_shapes
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['RESULTS_BYTES', 'forecast_ledger']

RESULTS_BYTES = 1024  # allowed for in config.json, for results that are not known yet


def forecast_ledger(
        base: BaseModel,
        specs: Sequence[WeightSpec],
        generator: GeneratorConfig,
        storage: StorageConfig,
        state: Mapping[str, Tensor],
        rounded: Sequence[str] = (),
        steps: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Sizes of the artifact that a fit of this design writes, from one with random weights.

    Exact for a predictor that is stored as floats, up to what results take in config.json, and up to five bytes of the
    orderings: none is made, for all take equally many. A quantized predictor takes as many bits for a weight as its
    configuration says, to within some per cent.

    Args:
        base: The base model.
        specs: The generated weights.
        generator: Settings of the generator.
        storage: How its numbers will be stored.
        state: The original's state dict, whose kept tensors and rounded weights are coded.
        rounded: Names of rounded weights.
        steps: Codes of their steps, as an artifact has them.

    Returns:
        The size ledger, with ``config`` (of config.json) and ``total``.
    """
    shapes = [permutation_shapes(spec, generator.ordering) for spec in specs]
    unordered = [tuple(np.tile(np.arange(n), (rows, 1)) for rows, n in layer) for layer in shapes]
    ordering = torch.zeros(usual_coded_bytes([shape for layer in shapes for shape in layer]), dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        random = Generator.fresh(generator, specs, unordered, seed=0)
    numbers = torch.Generator().manual_seed(0)
    for parameter in random.predictor.parameters():
        torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]), generator=numbers)
    kept = {name: state[name] for name in kept_names(base.state, (*random.names, *rounded))}
    artifact = Artifact(
        random, kept, base, storage, {name: state[name] for name in rounded}, dict(steps or {}),
        {'hardware': ' ' * RESULTS_BYTES})
    return artifact_ledger(artifact, ordering)
