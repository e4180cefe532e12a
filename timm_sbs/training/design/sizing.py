"""The design of a predictor: what is generated, and how large the predictor is."""
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.original import describe_original
from timm_sbs.codec.quantization import code_for_bits
from timm_sbs.common.config import (
    EncodingConfig,
    GeneratorConfig,
    OrderingConfig,
    PredictorConfig,
    QuantizationConfig,
    SelectionRule,
    StorageConfig,
)
from timm_sbs.common.errors import ConfigError
from timm_sbs.predictor.base_model import BaseModel
from timm_sbs.predictor.generator import Generator
from timm_sbs.predictor.network import num_predictor_parameters, predictor_for_budget
from timm_sbs.predictor.ordering import Permutations, output_sizes
from timm_sbs.predictor.selection import select_rounded, select_weights
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.design.forecast import forecast_ledger
from timm_sbs.training.options.settings import FEWEST_ROUNDED_BITS, FOLD_FROM, MAX_PLACES, MOST_ROUNDED_BITS

__all__ = ['Design', 'design', 'rounding_design', 'start_artifact', 'continue_artifact']

ROUNDED_BITS = 6.  # of rounded weights beside a predictor, before training finds out how many they need
FEWEST_FORECAST_BITS = 0.25  # by which steps are so large that normally distributed weights take half a bit
FORECAST_MARGIN = 0.005  # of a budget: by how much a quantized predictor may come out larger than forecast


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
    """
    base: BaseModel
    specs: tuple[WeightSpec, ...]
    generator: GeneratorConfig
    storage: StorageConfig
    rounded: tuple[str, ...] = ()
    rounded_bits: float = ROUNDED_BITS

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
    def bits(self) -> float | None:
        """Of a weight of the predictor, the same in all layers, or of rounded weights where nothing is generated; None
        if floats are stored."""
        quantization = self.storage.quantization
        if quantization is None:
            return None
        return quantization.layer_bits[0] if self.specs else self.rounded_bits

    def rounded_steps(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Codes of the steps of rounded weights, as an artifact has them, for the original's state dict."""
        return {f'rounded.{name}': code_for_bits(state[name], self.rounded_bits).cpu() for name in self.rounded}

    def with_predictor(self, predictor: PredictorConfig) -> 'Design':
        return dataclasses.replace(self, generator=dataclasses.replace(self.generator, predictor=predictor))

    def stored_as_floats(self) -> 'Design':
        return dataclasses.replace(self, storage=dataclasses.replace(self.storage, quantization=None))

    def forecast(self, original: nn.Module) -> dict[str, Any]:
        """Ledger of the artifact, before it exists: see :func:`forecast_ledger`."""
        state = original.state_dict()
        return forecast_ledger(
            self.base, self.specs, self.generator, self.storage, state, self.rounded, self.rounded_steps(state))


def design(
        original: nn.Module,
        pct: float = 20.,
        rule: SelectionRule = SelectionRule(),
        ordering: OrderingConfig = OrderingConfig(),
        encoding: EncodingConfig = EncodingConfig(),
        linear_layers: int = 5,
        activation: str = 'gelu',
        storage_dtype: str = 'float16',
        bits: float | None = None,
        kept_bits: int = 8,
        max_bytes: int | None = None,
        max_places: int | None = None,
) -> Design:
    """Choose what is generated and the size of the predictor.

    Args:
        original: The original model.
        pct: Parameters of the predictor, as per cent of all parameters of the original model.
        rule: Which of its weights are generated.
        ordering: Of the kernels.
        encoding: From coordinates to features.
        linear_layers: Matrix products of the predictor.
        activation: Between them.
        storage_dtype: Number format of the stored predictor, unless it is quantized.
        bits: Bits of a weight of a quantized predictor, the mean over its layers; None stores floats.
        kept_bits: Bits of kept tensors beside a quantized predictor.
        max_bytes: Size of both files of the artifact, which then decides instead of ``pct``.
        max_places: Of a layer, see OrderingConfig. None: the limit of ``ordering``; where it has none, and the network
            has ``FOLD_FROM`` kernels, ``MAX_PLACES``.

    Raises:
        TargetError: Nothing can be generated.
        ConfigError: No predictor is as small as asked, or it would be larger than what it generates.
    """
    base, specs = describe_original(original), tuple(select_weights(original, rule))
    if not specs:
        return rounding_design(original, base, rule, bits, kept_bits, max_bytes)
    if max_places is None and not ordering.max_places and sum(spec.num_kernels for spec in specs) >= FOLD_FROM:
        max_places = MAX_PLACES
    if max_places is not None:
        ordering = dataclasses.replace(ordering, max_places=max_places)
    outputs = output_sizes(specs, ordering)
    generator = GeneratorConfig(ordering, encoding, PredictorConfig(1, linear_layers, activation))
    quantization = None
    if bits is not None:
        layers = linear_layers - 1 + len(set(outputs))
        quantization = QuantizationConfig((float(bits),) * layers, kept_bits=kept_bits)
    rounded = select_rounded(original, rule, {spec.name for spec in specs}) if quantization else []
    found = Design(base, specs, generator, StorageConfig(storage_dtype, quantization), tuple(rounded))
    if max_bytes is None:
        budget = int(pct / 100 * sum(p.numel() for p in original.parameters()))
        found = found.with_predictor(
            predictor_for_budget(budget, generator.feature_width, outputs, generator.predictor))
    else:
        found = _widest_within(max_bytes, found, original)
    size, generated = found.num_parameters, found.num_generated
    if size >= generated:
        raise ConfigError(
            f'A predictor of {size:,} parameters for the {generated:,} weights that it would generate saves nothing. '
            f'Ask for less than {pct:g} %, or generate more weights.' if max_bytes is None else
            f'{max_bytes:,} bytes hold {size:,} parameters for the {generated:,} weights that they would generate, '
            f'which saves nothing. Ask for fewer bytes.')
    return found


def _widest_within(max_bytes: int, found: Design, original: nn.Module) -> Design:
    """The design with the widest predictor whose artifact is no larger than ``max_bytes``.

    Raises:
        ConfigError: None is.
    """
    config, quantization = found.generator, found.storage.quantization
    smallest = found.with_predictor(dataclasses.replace(config.predictor, width=1, extra=0))
    usable = max_bytes * (1 - FORECAST_MARGIN) if quantization else max_bytes
    ledger = smallest.forecast(original)
    rest = ledger['total'] - ledger['predictor']
    if ledger['total'] > usable:
        rounded = f"rounded weights ({ledger['rounded']:,}), " if ledger['rounded'] else ''
        advice = ('A coarser --order-over makes the ordering smaller.' if ledger['ordering'] > ledger['rounded']
                  else '--bytes alone rounds all weights, which takes less.')
        raise ConfigError(
            f"{max_bytes:,} bytes are too few: ordering ({ledger['ordering']:,}), {rounded}kept tensors "
            f"({ledger['kept']:,}), headers and settings alone take {rest:,}. {advice}")
    each = float(torch.finfo(getattr(torch, found.storage.dtype)).bits)
    if quantization:
        each = sum(quantization.layer_bits) / len(quantization.layer_bits)
    outputs = output_sizes(found.specs, config.ordering)
    fewest = smallest.num_parameters
    parameters = max(fewest, int((usable - rest) * 8 / each))
    while True:
        chosen = found.with_predictor(
            predictor_for_budget(parameters, config.feature_width, outputs, config.predictor))
        excess = chosen.forecast(original)['total'] - usable
        if excess <= 0 or parameters == fewest:
            return chosen
        parameters = max(fewest, parameters - math.ceil(8 * excess / each))


def rounding_design(
        original: nn.Module,
        base: BaseModel,
        rule: SelectionRule,
        bits: float | None,
        kept_bits: int,
        max_bytes: int | None,
) -> Design:
    """The design that generates nothing: all weights are rounded, to ``bits`` each, or to as many as a budget has room
    for.

    Raises:
        ConfigError: Nothing says how many, or no budget of so few bytes can be met.
    """
    rounded = tuple(select_rounded(original, rule, ()))
    found = Design(base, (), GeneratorConfig(), StorageConfig('float32', QuantizationConfig((), kept_bits=kept_bits)),
                   rounded)
    low, high = FEWEST_FORECAST_BITS, MOST_ROUNDED_BITS

    def with_bits(bits: float) -> tuple[Design, int]:
        candidate = dataclasses.replace(found, rounded_bits=bits)
        return candidate, candidate.forecast(original)['total']

    if max_bytes is not None:
        smallest = with_bits(low)[1]
        if smallest > max_bytes:
            raise ConfigError(
                f'{max_bytes:,} bytes are too few: with about {FEWEST_ROUNDED_BITS:g} bits a weight both files take '
                f'{smallest:,}.')
    if bits is not None:
        return dataclasses.replace(found, rounded_bits=bits)
    if max_bytes is None:
        raise ConfigError('Rounding needs to know how small: give bytes (--bytes) or bits of a weight (--bits).')
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if with_bits(middle)[1] <= max_bytes else (low, middle)
    return dataclasses.replace(found, rounded_bits=low)


def start_artifact(
        design: Design,
        permutations: Sequence[Permutations],
        original: nn.Module,
        seed: int,
) -> Artifact:
    """A fresh predictor, initialised from a seed, beside the kept tensors of the original. It is to be trained."""
    state = original.state_dict()
    generator = Generator.fresh(design.generator, design.specs, permutations, seed, state)
    rounded = {name: state[name].detach().clone() for name in design.rounded}
    steps = design.rounded_steps(state)
    return Artifact(generator, {}, design.base, design.storage, rounded, steps).with_kept(original)


def continue_artifact(artifact: Artifact, original: nn.Module) -> Artifact:
    """An artifact whose predictor is to be trained further. It keeps its licence, if it has one.

    Raises:
        ConfigError: It was fitted to another architecture.
    """
    base = describe_original(original, artifact.base.args)
    if base.name != artifact.base.name:
        raise ConfigError(
            f"The artifact was fitted to '{artifact.base.name}', but the original model is '{base.name}'.")
    base.pretrained_cfg['license'] = artifact.base.pretrained_cfg.get('license') or base.pretrained_cfg.get('license')
    artifact.generator.predictor.requires_grad_(True)
    return dataclasses.replace(artifact, base=base)
