"""Which weights of a model are generated, and how a weight tensor becomes kernel tokens and back."""
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import timm
import torch
from torch import Tensor, nn

from timm_sbs.config import TargetRule
from timm_sbs.errors import TargetError

__all__ = [
    'ConvSpec', 'select_targets', 'specs_from_names', 'kept_names', 'is_counter', 'canonical_args', 'describe_base',
    'to_kernels', 'from_kernels',
]


@dataclass(frozen=True)
class ConvSpec:
    """A generated convolution weight [out_channels, in_channels // groups, kh, kw], seen as kernels of kh*kw values."""
    name: str
    shape: Tuple[int, int, int, int]

    @property
    def num_filters(self) -> int:
        return self.shape[0]

    @property
    def num_channels(self) -> int:
        return self.shape[1]

    @property
    def num_kernels(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def token_size(self) -> int:
        return self.shape[2] * self.shape[3]

    @property
    def num_weights(self) -> int:
        return math.prod(self.shape)


def is_counter(name: str) -> bool:
    """Whether a state dict entry is BatchNorm's step counter, which inference ignores and an artifact leaves out."""
    return name.endswith('num_batches_tracked')


def _first_conv_names(model: nn.Module) -> Tuple[str, ...]:
    names = (getattr(model, 'pretrained_cfg', None) or {}).get('first_conv') or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def select_targets(model: nn.Module, rule: TargetRule = TargetRule()) -> List[ConvSpec]:
    """The weights that a predictor generates: spatial convolutions (kh*kw > 1), the stem and small ones left out.

    Args:
        model: A timm model; ``pretrained_cfg['first_conv']`` names the stem, which is kept.
        rule: Smallest size, and glob patterns over weight names that overrule it. ``exclude`` wins over ``include``.

    Returns:
        One spec for each generated weight, in the order of ``model.named_modules()``.

    Raises:
        TargetError: No weight is left to generate.
    """
    stems = _first_conv_names(model)
    specs = []
    for module_name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        name = f'{module_name}.weight'
        shape = tuple(module.weight.shape)
        by_rule = (
            shape[2] * shape[3] > 1
            and math.prod(shape) >= rule.min_weights
            and module_name not in stems)
        if (by_rule or _matches(name, rule.include)) and not _matches(name, rule.exclude):
            specs.append(ConvSpec(name, shape))
    if not specs:
        raise TargetError(
            f'{type(model).__name__} has no convolution weight to generate: none has kernels larger than 1x1, at least '
            f'{rule.min_weights} weights, and is not the stem. Lower the minimum size or include weights by name.')
    return specs


def specs_from_names(names: Sequence[str], base_state: Mapping[str, Tensor], base: str) -> List[ConvSpec]:
    """Specs of named weights, with the shapes that the base model gives them.

    Raises:
        TargetError: The model has no such weight, or it is not a convolution weight.
    """
    specs = []
    for name in names:
        if name not in base_state:
            raise TargetError(f"'{base}' has no weight '{name}' to generate. Was it fitted to another model?")
        shape = tuple(base_state[name].shape)
        if len(shape) != 4:
            raise TargetError(f"'{name}' of '{base}' has shape {list(shape)}, so it is no convolution weight.")
        specs.append(ConvSpec(name, shape))
    return specs


# Arguments of timm.create_model that say where weights come from or what is built around the model: they are the
# user's, never an artifact's.
_NOT_BASE_ARGS = {
    'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'checkpoint_path', 'cache_dir', 'features_only',
    'out_indices', 'num_classes', 'in_chans', 'base', 'model_name', 'device', 'dtype',
}
MAX_CLASSES = 1 << 20
MAX_CHANNELS = 1 << 12


def canonical_args(base_args: Mapping[str, Any], pretrained_cfg: Mapping[str, Any]) -> Dict[str, Any]:
    """Arguments that build the base model as it was fitted: its own, and the original's classes and channels.

    Raises:
        TargetError: An argument is not the base model's to take, or classes or channels are out of range.
    """
    for name, value in base_args.items():
        if name in _NOT_BASE_ARGS or not isinstance(value, (str, int, float, bool)):
            raise TargetError(f"'{name}' with value {value!r} is no argument that a base model may be given.")
    num_classes = pretrained_cfg.get('num_classes')
    input_size = pretrained_cfg.get('input_size')
    if not _is_int(num_classes, 0, MAX_CLASSES):
        raise TargetError(f'pretrained_cfg.num_classes is {num_classes!r}, but must be from 0 to {MAX_CLASSES}.')
    if not (isinstance(input_size, (list, tuple)) and len(input_size) == 3 and _is_int(input_size[0], 1, MAX_CHANNELS)):
        raise TargetError(f'pretrained_cfg.input_size is {input_size!r}, but must be [channels, height, width].')
    return {**base_args, 'num_classes': num_classes, 'in_chans': input_size[0]}


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def describe_base(base: str, base_args: Mapping[str, Any], pretrained_cfg: Mapping[str, Any]) -> Dict[str, Tensor]:
    """The base model's state dict on the meta device: names, shapes and dtypes, without memory for values.

    Raises:
        TargetError: timm does not know the base, or cannot build it with these arguments.
    """
    args = canonical_args(base_args, pretrained_cfg)
    if not timm.is_model(base) or base.startswith('sbs'):
        raise TargetError(
            f"'{base}' is no architecture that timm {timm.__version__} can build. "
            f'Check the name with timm.list_models(), or upgrade timm.')
    try:
        with torch.device('meta'):
            return dict(timm.create_model(base, **args).state_dict())
    except RuntimeError:
        pass  # some constructors compute with their tensors, and need real ones
    except Exception as e:
        raise TargetError(f"timm cannot build '{base}' with arguments {args}: {e}") from e
    try:
        model = timm.create_model(base, **args)
    except Exception as e:
        raise TargetError(f"timm cannot build '{base}' with arguments {args}: {e}") from e
    return {name: tensor.to('meta') for name, tensor in model.state_dict().items()}


def kept_names(base_state: Mapping[str, Tensor], generated: Iterable[str]) -> List[str]:
    """State dict entries that are stored as they are: all but generated weights and counters."""
    generated = set(generated)
    return [name for name in base_state if name not in generated and not is_counter(name)]


def to_kernels(weight: Tensor, spec: ConvSpec) -> Tensor:
    """Kernel tokens of a weight: [out, in // groups, kh, kw] -> [out * (in // groups), kh * kw].

    Raises:
        TargetError: The weight does not have the spec's shape.
    """
    if tuple(weight.shape) != spec.shape:
        raise TargetError(f"Weight '{spec.name}' has shape {list(weight.shape)}, but {list(spec.shape)} was expected.")
    return weight.reshape(spec.num_kernels, spec.token_size)


def from_kernels(kernels: Tensor, spec: ConvSpec) -> Tensor:
    """Inverse of :func:`to_kernels`.

    Raises:
        TargetError: The number or the size of the kernels is not the spec's.
    """
    if tuple(kernels.shape) != (spec.num_kernels, spec.token_size):
        raise TargetError(
            f"'{spec.name}' consists of {spec.num_kernels} kernels of {spec.token_size} values, "
            f'but got {list(kernels.shape)}.')
    return kernels.reshape(spec.shape)
