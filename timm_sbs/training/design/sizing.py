"""The design of an artifact: what is generated or rounded, how large the predictor is, and the bytes that follow."""
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import origin_of
from timm_sbs.artifact.original import describe_original
from timm_sbs.artifact.update import Origin
from timm_sbs.codec.quantization import code_for_bits
from timm_sbs.common.config import (
    EncodingConfig,
    GeneratorConfig,
    PredictorConfig,
    QuantizationConfig,
    StorageConfig,
)
from timm_sbs.common.errors import ConfigError
from timm_sbs.predictor.base_model import BaseModel, kept_names
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.network import num_predictor_parameters, predictor_for_budget
from timm_sbs.predictor.ordering import Permutations, output_sizes, permutation_shapes
from timm_sbs.predictor.selection import select_rounded, select_weights
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.rounding.all_weights import FEWEST_ROUNDED_BITS, MOST_ROUNDED_BITS
from timm_sbs.training.settings import PCT, Target

__all__ = ['RESULTS_BYTES', 'Design', 'design', 'start_artifact']

# Encodings that were measured to work, by the coordinates of kernels. A grid's axes are shorter than a path, and its
# features have to tell apart kernels that are not neighbours.
ENCODINGS = {
    'path': EncodingConfig(),
    'grid': EncodingConfig(num_frequencies=128, layer_bandwidth=12., bandwidth=1.5),
}
# Networks of so many kernels have at most so many positions in a layer. Folding EfficientNet-Lite0 leaves an error of
# 0.085 instead of 0.172 after 1,000 steps of reconstruction, for its kernels are seen more often; ResNet-18's
# shape with real kernels 0.105 instead of 0.125 with 4,096 positions, with a seventh of the operations. On ResNet-56 it
# costs 9 % of the error and 0.1 points, and there is nothing to wait for.
FOLD_FROM, MAX_POSITIONS = 200_000, 1024
LINEAR_LAYERS, QUANTIZED_LINEAR_LAYERS = 5, 4  # matrix products: rounding errors grow from one to the next
ROUNDED_BITS = 6.  # of rounded weights beside a predictor, before training finds out how many they need
BITS_TOLERANCE = 0.01  # of rounded weights, whose step sizes are found later
RESULTS_BYTES = 1024  # allowed for in config.json, for results that are not known yet
FEWEST_FORECAST_BITS = 0.25  # by which steps are so large that normally distributed weights take half a bit
UPDATE_FORECAST_BITS = -2.  # by which steps are so large that all differences are zero


@dataclass(frozen=True)
class Design:
    """What a fit begins with: nothing is ordered or trained yet.

    Attributes:
        base: The base model, and timm's description of the original.
        specs: The generated weights.
        generator: Settings of their generator.
        storage: How its numbers will be stored.
        rounded: Names of the rounded weights of a quantized artifact.
        rounded_bits: Of each of these at first, which their steps follow from.
        origin: Of an update, its base.
    """
    base: BaseModel
    specs: tuple[WeightSpec, ...]
    generator: GeneratorConfig
    storage: StorageConfig
    rounded: tuple[str, ...] = ()
    rounded_bits: float = ROUNDED_BITS
    origin: Origin | None = None

    @property
    def num_parameters(self) -> int:
        """Trained parameters of the predictor."""
        config = self.generator
        return num_predictor_parameters(
            config.feature_width, output_sizes(self.specs, config.ordering), config.predictor)

    @property
    def num_generated(self) -> int:
        """Values of all generated weights."""
        return sum(spec.num_weights for spec in self.specs)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the generated weights, or of the rounded ones where none are generated."""
        return tuple(spec.name for spec in self.specs) or self.rounded

    def forecast(self, original: nn.Module) -> dict[str, int]:
        """Sizes of the artifact that a fit of this design writes, from one with random weights.

        Exact for a predictor that is stored as floats, up to what results take in config.json, and up to a few bytes of
        the orderings, which take equally many whatever they are. A quantized predictor takes as many bits for a weight
        as its configuration says, to within some per cent.

        Returns:
            As :meth:`~timm_sbs.artifact.artifact.Artifact.ledger`.
        """
        shapes = [permutation_shapes(spec, self.generator.ordering) for spec in self.specs]
        unordered = [tuple(np.tile(np.arange(n), (rows, 1)) for rows, n in layer) for layer in shapes]
        with torch.random.fork_rng(devices=[]):
            artifact = start_artifact(self, unordered, original, seed=0)
            for parameter in artifact.generator.predictor.parameters():
                torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]))
        return artifact.with_results({'hardware': ' ' * RESULTS_BYTES}).ledger()


def design(original: nn.Module, target: Target = Target(), seed: int = 0) -> Design:
    """Choose what is generated or rounded, and the size of the predictor.

    Raises:
        TargetError: Nothing can be generated.
        ConfigError: No artifact is as small as asked, or the predictor would be larger than what it generates.
    """
    base, specs = describe_original(original), tuple(select_weights(original, target.rule))
    if target.rounds:
        return _rounding_design(original, base, target)
    ordering, bits = target.ordering, target.bits
    max_positions = target.max_positions
    if max_positions is None:
        max_positions = MAX_POSITIONS if sum(spec.num_kernels for spec in specs) >= FOLD_FROM else 0
    ordering = dataclasses.replace(ordering, max_positions=max_positions)
    given = {name: value for name in ('num_frequencies', 'layer_bandwidth', 'bandwidth', 'bandwidth_exponent')
             if (value := getattr(target, name)) is not None}
    encoding = dataclasses.replace(ENCODINGS[ordering.coordinates], kind=target.encoding, seed=seed, **given)
    layers = target.linear_layers or (LINEAR_LAYERS if bits is None else QUANTIZED_LINEAR_LAYERS)
    generator = GeneratorConfig(ordering, encoding, PredictorConfig(1, layers, target.activation))
    outputs = output_sizes(specs, ordering)
    parameters, pct = sum(p.numel() for p in original.parameters()), PCT if target.pct is None else target.pct
    generator = dataclasses.replace(generator, predictor=predictor_for_budget(
        int(pct / 100 * parameters), generator.feature_width, outputs, generator.predictor))
    quantization, rounded = None, list[str]()
    if bits is not None:
        quantization = QuantizationConfig((bits,) * (layers - 1 + len(set(outputs))), kept_bits=target.kept_bits)
        rounded = select_rounded(original, target.rule, {spec.name for spec in specs})
    found = Design(base, specs, generator, StorageConfig(target.storage_dtype, quantization), tuple(rounded))
    if found.num_parameters >= found.num_generated:
        raise ConfigError(
            f'A predictor of {found.num_parameters:,} parameters for the {found.num_generated:,} weights that it would '
            f'generate saves nothing. Ask for less than {pct:g} %, or generate more weights.')
    return found


def _rounding_design(original: nn.Module, base: BaseModel, target: Target) -> Design:
    """The design that generates nothing: all weights are rounded, to as many bits as the bytes have room for.

    Raises:
        ConfigError: The bytes are too few.
    """
    storage = StorageConfig('float32', QuantizationConfig((), kept_bits=target.kept_bits))
    found = Design(base, (), GeneratorConfig(), storage, tuple(select_rounded(original, target.rule, ())))
    if target.base:
        found = _of_update(found, target.base, original)
    high, max_bytes = MOST_ROUNDED_BITS, target.max_bytes or 0
    low = UPDATE_FORECAST_BITS if found.origin else FEWEST_FORECAST_BITS

    def excess(bits: float) -> int:
        return dataclasses.replace(found, rounded_bits=bits).forecast(original)['total'] - max_bytes

    if (least := excess(low)) > 0:
        how = 'without any of what differs' if found.origin else f'with about {FEWEST_ROUNDED_BITS:g} bits per weight'
        raise ConfigError(f'{max_bytes:,} bytes are too few: {how} both files take {max_bytes + least:,}.')
    bits = brentq(excess, low, high, xtol=BITS_TOLERANCE) - BITS_TOLERANCE if excess(high) > 0 else high
    return dataclasses.replace(found, rounded_bits=bits)


def _of_update(design: Design, name: str, original: nn.Module) -> Design:
    """The design of what differs from another artifact."""
    state, origin = original.state_dict(), origin_of(name, design.base)
    rounded = tuple(weight for weight in design.rounded if not origin.has(weight, state[weight]))
    kept = kept_names(design.base.state, rounded)
    stored = frozenset(key for key in kept if not origin.has(key, state[key]))
    base = design.base
    if origin.license and not base.pretrained_cfg.get('license'):
        base = dataclasses.replace(base, pretrained_cfg={**base.pretrained_cfg, 'license': origin.license})
    return dataclasses.replace(design, base=base, rounded=rounded, origin=dataclasses.replace(origin, stored=stored))


def start_artifact(
        design: Design, permutations: Sequence[Permutations], original: nn.Module, seed: int) -> Artifact:
    """A fresh predictor, initialised from a seed, beside the kept tensors of the original. It is to be trained."""
    state, origin = original.state_dict(), design.origin
    generator = Generator.fresh(design.generator, design.specs, permutations, seed, state)
    rounded = {name: state[name].detach().clone() for name in design.rounded}
    if origin:
        rounded = {name: origin.difference(name, weight) for name, weight in rounded.items()}
    steps = {f'rounded.{name}': code_for_bits(weight, design.rounded_bits).cpu() for name, weight in rounded.items()}
    inherits = origin and origin.license == design.base.pretrained_cfg.get('license')
    found = Artifact(generator, {}, design.base, design.storage, rounded, steps, origin=origin,
                     license_text=origin.license_text if origin and inherits else None)
    return found.with_kept(original)
