"""From an original model to an artifact: size the predictor, order the kernels, and collect what is stored."""
import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import nn
from tqdm.auto import tqdm

from timm_sbs.artifact import Artifact
from timm_sbs.config import EncodingConfig, OrderingConfig, PredictorConfig, SbsConfig, TargetRule
from timm_sbs.encoding import draw_frequencies
from timm_sbs.errors import ConfigError
from timm_sbs.generate import GenerationPlan, make_plan
from timm_sbs.ordering import Permutations
from timm_sbs.predictor import Predictor, num_predictor_parameters, width_for_budget
from timm_sbs.targets import ConvSpec, describe_base, kept_names, select_targets
from timm_sbs.training.original import describe_original

__all__ = ['Fit', 'design', 'predictor_parameters', 'find_orderings', 'start_fit']


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
    """
    config: SbsConfig
    pretrained_cfg: Dict[str, Any]
    specs: Tuple[ConvSpec, ...]
    permutations: Tuple[Permutations, ...]
    plan: GenerationPlan
    predictor: Predictor

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
) -> Tuple[SbsConfig, Dict[str, Any], List[ConvSpec]]:
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
        storage_dtype: Number format of the stored predictor.

    Returns:
        The configuration, timm's pretrained_cfg for the artifact, and the generated weights.

    Raises:
        TargetError: Nothing can be generated.
        ConfigError: No predictor is as small as ``pct`` asks, or it would be larger than what it generates.
    """
    base, base_args, pretrained_cfg = describe_original(original, model_args)
    specs = select_targets(original, rule)
    token_sizes = [spec.token_size for spec in specs]
    budget = int(pct / 100 * sum(p.numel() for p in original.parameters()))
    features = encoding.feature_width(1 + ordering.num_axes)
    width = width_for_budget(budget, features, token_sizes, linear_layers)
    config = SbsConfig(
        base=base,
        base_args=base_args,
        generated=tuple(spec.name for spec in specs),
        ordering=ordering,
        encoding=encoding,
        predictor=PredictorConfig(width, linear_layers, activation),
        storage_dtype=storage_dtype,
    )
    size, generated = predictor_parameters(config, specs), sum(spec.num_weights for spec in specs)
    if size >= generated:
        raise ConfigError(
            f'A predictor of {size:,} parameters for the {generated:,} weights that it would generate saves nothing. '
            f'Ask for less than {pct:g} %, or generate more weights.')
    return config, pretrained_cfg, specs


def predictor_parameters(config: SbsConfig, specs: Sequence[ConvSpec]) -> int:
    """Trained parameters of a configuration's predictor."""
    return num_predictor_parameters(config.feature_width, [spec.token_size for spec in specs], config.predictor)


def find_orderings(
        original: nn.Module,
        specs: Sequence[ConvSpec],
        ordering: OrderingConfig,
) -> Tuple[Permutations, ...]:
    """Kernel orderings of all generated weights, from the original weights."""
    from timm_sbs.paths import find_permutations  # needs the 'train' extra

    return tuple(
        find_permutations(original.get_parameter(spec.name), spec, ordering)
        for spec in tqdm(specs, desc='ordering', unit='layer', disable=None))


def start_fit(
        config: SbsConfig,
        pretrained_cfg: Dict[str, Any],
        specs: Sequence[ConvSpec],
        permutations: Sequence[Permutations],
        seed: int,
) -> Fit:
    """A fresh predictor, initialised from a seed, ready to be trained."""
    torch.manual_seed(seed)
    frequencies = draw_frequencies(config.encoding, config.num_coordinates)
    plan = make_plan(config, specs, permutations, frequencies)
    predictor = Predictor(config.feature_width, [spec.token_size for spec in specs], config.predictor)
    return Fit(config, pretrained_cfg, tuple(specs), tuple(permutations), plan, predictor)
