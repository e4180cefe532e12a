"""From an original model to an artifact: size the predictor, order the kernels, and collect what is stored."""
import dataclasses
import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from timm_sbs.artifact import Artifact, as_stored
from timm_sbs.base_model import describe_base, kept_names
from timm_sbs.config import EncodingConfig, OrderingConfig, PredictorConfig, QuantizationConfig, SbsConfig, TargetRule
from timm_sbs.encoding import draw_frequencies
from timm_sbs.errors import ConfigError
from timm_sbs.generate import GenerationPlan, generate_weights, make_plan
from timm_sbs.ordering import Permutations, output_sizes
from timm_sbs.predictor import Predictor, num_predictor_parameters, predictor_for_budget
from timm_sbs.targets import TargetSpec, select_targets
from timm_sbs.training.forecast import forecast_sizes
from timm_sbs.training.original import describe_original
from timm_sbs.training.settings import FOLD_FROM, MAX_PLACES

__all__ = ['Design', 'Fit', 'design', 'predictor_parameters', 'start_fit', 'continue_fit']

Design = Tuple[SbsConfig, Dict[str, Any], List[TargetSpec]]  # configuration, timm's pretrained_cfg, generated weights
FORECAST_MARGIN = 0.005  # of a budget: by how much a quantized predictor may come out larger than forecast


@dataclasses.dataclass(frozen=True)
class Fit:
    """A predictor in training, with all that belongs to it.

    Attributes:
        config: Its configuration, results still empty.
        pretrained_cfg: timm's description of the original.
        specs: The generated weights.
        permutations: Their kernel orderings.
        plan: The generation.
        predictor: The predictor itself, trained in place.
        license_text: Of the LICENSE that its artifact is to have, if any.
    """
    config: SbsConfig
    pretrained_cfg: Dict[str, Any]
    specs: Tuple[TargetSpec, ...]
    permutations: Tuple[Permutations, ...]
    plan: GenerationPlan
    predictor: Predictor
    license_text: Optional[str] = None

    def quantized(self, quantization: Optional[QuantizationConfig]) -> 'Fit':
        """The same predictor, to be rounded in this way; with None, to be stored as floats."""
        config = dataclasses.replace(self.config, quantization=quantization)
        return dataclasses.replace(self, config=config, plan=dataclasses.replace(self.plan, config=config))

    def stored_weights(self) -> Dict[str, Tensor]:
        """All weights as a reader of the artifact will generate them."""
        return generate_weights(as_stored(self.predictor, self.config), self.plan)

    def artifact(self, model: nn.Module, results: Mapping[str, Any]) -> Artifact:
        """What is to be stored: the predictor as it is now, and the kept tensors of ``model``."""
        state = model.state_dict()
        base_state = describe_base(self.config.base, self.config.base_args, self.pretrained_cfg)
        return Artifact(
            config=dataclasses.replace(self.config, results=dict(results)),
            pretrained_cfg=self.pretrained_cfg,
            specs=self.specs,
            predictor=self.predictor,
            frequencies=self.plan.frequencies,
            permutations=self.permutations,
            kept={name: state[name] for name in kept_names(base_state, self.config.generated)},
            base_state=base_state,
            license_text=self.license_text,
        )


def design(
        original: nn.Module,
        model_args: Optional[Mapping[str, Any]] = None,
        pct: float = 20.,
        rule: TargetRule = TargetRule(),
        ordering: OrderingConfig = OrderingConfig(),
        encoding: EncodingConfig = EncodingConfig(),
        linear_layers: int = 5,
        activation: str = 'gelu',
        storage_dtype: str = 'float16',
        bits: Optional[float] = None,
        kept_bits: int = 8,
        max_bytes: Optional[int] = None,
        max_places: Optional[int] = None,
) -> Design:
    """Choose what is generated and the size of the predictor.

    Args:
        original: The original model.
        model_args: Arguments it was created with.
        pct: Parameters of the predictor, as per cent of all parameters of the original model.
        rule: Which of its weights are generated.
        ordering: Granularity and coordinates of the kernel orderings.
        encoding: From coordinates to features.
        linear_layers: Matrix products of the predictor.
        activation: Between them.
        storage_dtype: Number format of the stored predictor, unless it is quantized.
        bits: Bits of a weight of a quantized predictor, the mean over its layers; None stores floats.
        kept_bits: Bits of kept tensors beside a quantized predictor.
        max_bytes: Size of both files of the artifact, which then decides instead of ``pct``.
        max_places: Of a layer, see OrderingConfig. None: the limit of ``ordering``; where it has none, and the network
            has ``FOLD_FROM`` kernels, ``MAX_PLACES``.

    Returns:
        The configuration, timm's pretrained_cfg for the artifact, and the generated weights.

    Raises:
        TargetError: Nothing can be generated.
        ConfigError: No predictor is as small as asked, or it would be larger than what it generates.
    """
    base, base_args, pretrained_cfg = describe_original(original, model_args)
    specs = select_targets(original, rule)
    if max_places is None and not ordering.max_places and sum(spec.num_kernels for spec in specs) >= FOLD_FROM:
        max_places = MAX_PLACES
    if max_places is not None:
        ordering = dataclasses.replace(ordering, max_places=max_places)
    outputs = output_sizes(specs, ordering)
    features = encoding.feature_width(1 + ordering.num_axes)
    config = SbsConfig(
        base=base,
        base_args=base_args,
        generated=tuple(spec.name for spec in specs),
        ordering=ordering,
        encoding=encoding,
        predictor=PredictorConfig(1, linear_layers, activation),
        pointwise_size=rule.pointwise_size,
        storage_dtype=storage_dtype,
        quantization=bits and QuantizationConfig(
            (float(bits),) * (linear_layers - 1 + len(set(outputs))), kept_bits=kept_bits),
    )
    if max_bytes is None:
        budget = int(pct / 100 * sum(p.numel() for p in original.parameters()))
        config = dataclasses.replace(
            config, predictor=predictor_for_budget(budget, features, outputs, config.predictor))
    else:
        config = _widest_within(max_bytes, config, pretrained_cfg, specs, original)
    size, generated = predictor_parameters(config, specs), sum(spec.num_weights for spec in specs)
    if size >= generated:
        raise ConfigError(
            f'A predictor of {size:,} parameters for the {generated:,} weights that it would generate saves nothing. '
            f'Ask for less than {pct:g} %, or generate more weights.' if max_bytes is None else
            f'{max_bytes:,} bytes hold {size:,} parameters for the {generated:,} weights that they would generate, '
            f'which saves nothing. Ask for fewer bytes.')
    return config, pretrained_cfg, specs


def _widest_within(
        max_bytes: int,
        config: SbsConfig,
        pretrained_cfg: Mapping[str, Any],
        specs: Sequence[TargetSpec],
        original: nn.Module,
) -> SbsConfig:
    """The configuration with the widest predictor whose artifact is no larger than ``max_bytes``.

    Raises:
        ConfigError: None is.
    """
    def forecast(config: SbsConfig) -> Dict[str, Any]:
        return forecast_sizes(config, pretrained_cfg, specs, original.state_dict())

    def with_predictor(predictor: PredictorConfig) -> SbsConfig:
        return dataclasses.replace(config, predictor=predictor)

    smallest_predictor = dataclasses.replace(config.predictor, width=1, extra=0)
    usable = max_bytes * (1 - FORECAST_MARGIN) if config.quantization else max_bytes
    smallest = forecast(with_predictor(smallest_predictor))
    rest = smallest['total'] - smallest['predictor']
    if smallest['total'] > usable:
        raise ConfigError(
            f"{max_bytes:,} bytes are too few: ordering ({smallest['ordering']:,}), kept tensors "
            f"({smallest['kept']:,}), headers and settings alone take {rest:,}. A coarser --granularity makes the "
            f"ordering smaller.")
    each = torch.finfo(getattr(torch, config.storage_dtype)).bits
    if config.quantization:
        each = sum(config.quantization.layer_bits) / len(config.quantization.layer_bits)
    outputs = output_sizes(specs, config.ordering)
    fewest = predictor_parameters(with_predictor(smallest_predictor), specs)
    parameters = max(fewest, int((usable - rest) * 8 / each))
    while True:
        chosen = with_predictor(predictor_for_budget(parameters, config.feature_width, outputs, config.predictor))
        excess = forecast(chosen)['total'] - usable
        if excess <= 0 or parameters == fewest:
            return chosen
        parameters = max(fewest, parameters - math.ceil(8 * excess / each))


def predictor_parameters(config: SbsConfig, specs: Sequence[TargetSpec]) -> int:
    """Trained parameters of a configuration's predictor."""
    return num_predictor_parameters(config.feature_width, output_sizes(specs, config.ordering), config.predictor)


def start_fit(
        config: SbsConfig,
        pretrained_cfg: Dict[str, Any],
        specs: Sequence[TargetSpec],
        permutations: Sequence[Permutations],
        seed: int,
) -> Fit:
    """A fresh predictor, initialised from a seed, ready to be trained."""
    torch.manual_seed(seed)
    frequencies = draw_frequencies(config.encoding, config.num_coordinates)
    plan = make_plan(config, specs, permutations, frequencies)
    predictor = Predictor(config.feature_width, output_sizes(specs, config.ordering), config.predictor)
    return Fit(config, pretrained_cfg, tuple(specs), tuple(permutations), plan, predictor)


def continue_fit(artifact: Artifact, original: nn.Module) -> Fit:
    """The predictor of an artifact, to be trained further. It keeps its licence, if it has one.

    Raises:
        ConfigError: It was fitted to another architecture.
    """
    base, base_args, pretrained_cfg = describe_original(original, artifact.config.base_args)
    if base != artifact.config.base:
        raise ConfigError(f"The artifact was fitted to '{artifact.config.base}', but the original model is '{base}'.")
    pretrained_cfg['license'] = artifact.pretrained_cfg.get('license') or pretrained_cfg.get('license')
    config = dataclasses.replace(artifact.config, results={}, weights_sha256='')
    plan = make_plan(config, artifact.specs, artifact.permutations, artifact.frequencies)
    predictor = artifact.predictor.requires_grad_(True)
    return Fit(
        config, pretrained_cfg, artifact.specs, artifact.permutations, plan, predictor, artifact.license_text)
