"""Which weights of a model are generated, and how a weight tensor becomes kernel tokens and back."""
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Dict, List, Mapping, Sequence, Tuple

from timm.layers import CondConv2d
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.base_model import first_names
from timm_sbs.config import LARGEST_TOKEN, POINTWISE_SIZE, TargetRule
from timm_sbs.errors import TargetError

__all__ = [
    'TargetSpec', 'named_in_cfg', 'explain_targets', 'select_targets', 'specs_from_names', 'to_kernels', 'from_kernels',
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, CondConv2d)


@dataclass(frozen=True)
class TargetSpec:
    """A generated weight, seen as a grid of tokens: a row for each of its filters, ``num_channels`` tokens in a row.

    A token is, for a weight [out_channels, in_channels // groups, *kernel] or [out_features, in_features],

    - one kernel of up to 64 values, such as 3x3, 5x5, 7x7 or 1x11, depthwise ones too;
    - one row of a larger kernel: 31 tokens of 31 values for 31x31;
    - ``pointwise_size`` successive input channels of one filter where kernels have one value: 1x1 convolutions and
      linear layers. Zeros fill the last token of a row up.
    """
    name: str
    shape: Tuple[int, ...]
    pointwise_size: int = POINTWISE_SIZE

    @property
    def token_size(self) -> int:
        kernel = math.prod(self.shape[2:])
        if 1 < kernel <= LARGEST_TOKEN:
            return kernel
        if kernel > LARGEST_TOKEN and 1 < self.shape[-1] <= LARGEST_TOKEN:
            return self.shape[-1]
        return self.pointwise_size

    @property
    def num_filters(self) -> int:
        return self.shape[0]

    @property
    def num_channels(self) -> int:
        """Tokens of a filter: its input channels, or groups of them, or rows of all their kernels."""
        return math.ceil(math.prod(self.shape[1:]) / self.token_size)

    @property
    def num_kernels(self) -> int:
        return self.num_filters * self.num_channels

    @property
    def num_weights(self) -> int:
        return math.prod(self.shape)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def named_in_cfg(model: nn.Module, key: str) -> Tuple[str, ...]:
    """Modules that timm's ``pretrained_cfg`` names under 'first_conv' (the stem) or 'classifier'."""
    names = (getattr(model, 'pretrained_cfg', None) or {}).get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _keeps_linear_layers(model: nn.Module, ends: Sequence[str]) -> bool:
    """Whether a network has attention heads, but more weights in convolutions than in linear layers, but for its ends.

    What linear layers of such hybrids bear was not measured, and there is enough else to generate.
    """
    weights = {nn.Conv2d: 0, nn.Linear: 0}
    for name, module in model.named_modules():
        for kind in weights:
            if isinstance(module, kind) and name not in ends:
                weights[kind] += module.weight.numel()
    return weights[nn.Conv2d] > weights[nn.Linear] and any(hasattr(m, 'num_heads') for m in model.modules())


def explain_targets(model: nn.Module, rule: TargetRule = TargetRule()) -> Dict[str, str]:
    """Why each parameter is kept, or '' for a weight that is generated, by name.

    Generated are the weights of convolutions and linear layers, whatever their kernels and groups, apart from stem,
    classifier, small ones, and linear layers of networks of convolutions with some attention. ``rule.include`` names
    further tensors of two or more dimensions, ``rule.exclude`` wins over all else. A weight that modules share has the
    first of its names.

    Args:
        model: A timm model; its ``pretrained_cfg`` names stem ('first_conv') and classifier.
        rule: Smallest size, and glob patterns over names.
    """
    stems, classifiers = named_in_cfg(model, 'first_conv'), named_in_cfg(model, 'classifier')
    keeps_linear_layers = _keeps_linear_layers(model, (*stems, *classifiers))
    parameters = dict(model.named_parameters())
    reasons = dict.fromkeys(parameters, 'norms, biases and others')
    for module_name, module in model.named_modules():
        name = f'{module_name}.weight' if module_name else 'weight'
        if name not in parameters or not isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            continue
        if module_name in stems:
            reasons[name] = 'stem'
        elif module_name in classifiers:
            reasons[name] = 'classifier'
        elif parameters[name].numel() < rule.min_weights:
            reasons[name] = f'below {rule.min_weights} weights'
        elif keeps_linear_layers and isinstance(module, nn.Linear):
            reasons[name] = 'linear, in a network of convolutions with attention'
        else:
            reasons[name] = ''
    for name, parameter in parameters.items():
        if _matches(name, rule.include) and parameter.dim() >= 2:
            reasons[name] = ''
        if not reasons[name] and _matches(name, rule.exclude):
            reasons[name] = 'excluded by name'
    return reasons


def select_targets(model: nn.Module, rule: TargetRule = TargetRule()) -> List[TargetSpec]:
    """The weights that a predictor generates, by the rule of :func:`explain_targets`, in the order of the network.

    Raises:
        TargetError: No weight is left to generate, or a pattern names none.
    """
    reasons = explain_targets(model, rule)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for option, patterns in (('include', rule.include), ('exclude', rule.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) and len(shape) > 1 for name, shape in shapes.items()):
                raise TargetError(
                    f"--{option} '{pattern}' matches no weight of {type(model).__name__} with two or more dimensions. "
                    f"Names look like '{next(iter(reasons), '')}'.")
    specs = [TargetSpec(name, shapes[name], rule.pointwise_size) for name, reason in reasons.items() if not reason]
    if not specs:
        raise TargetError(
            f'{type(model).__name__} has no weight to generate: no convolution or linear layer but stem and classifier '
            f'has {rule.min_weights} weights. Lower the minimum size or include weights by name.')
    return specs


def specs_from_names(
        names: Sequence[str],
        base_state: Mapping[str, Tensor],
        base: str,
        pointwise_size: int = POINTWISE_SIZE,
) -> List[TargetSpec]:
    """Specs of named weights, with the shapes that the base model gives them.

    Raises:
        TargetError: The model has no such weight, or it cannot be generated.
    """
    specs = []
    first = first_names(base_state)
    for name in names:
        if name not in base_state:
            raise TargetError(f"'{base}' has no weight '{name}' to generate. Was it fitted to another model?")
        tensor = base_state[name]
        if first[name] != name:
            raise TargetError(f"'{name}' of '{base}' is another name of '{first[name]}', which is the one to generate.")
        if tensor.dim() < 2 or not tensor.is_floating_point():
            raise TargetError(
                f"'{name}' of '{base}' is {tensor.dtype} of shape {list(tensor.shape)}, so it is no weight of kernels.")
        specs.append(TargetSpec(name, tuple(tensor.shape), pointwise_size))
    return specs


def to_kernels(weight: Tensor, spec: TargetSpec) -> Tensor:
    """Kernel tokens of a weight: its own shape -> [num_kernels, token_size].

    Raises:
        TargetError: The weight does not have the spec's shape.
    """
    if tuple(weight.shape) != spec.shape:
        raise TargetError(f"Weight '{spec.name}' has shape {list(weight.shape)}, but {list(spec.shape)} was expected.")
    rows = weight.reshape(spec.num_filters, -1)
    missing = spec.num_channels * spec.token_size - rows.shape[1]
    return (F.pad(rows, (0, missing)) if missing else rows).reshape(spec.num_kernels, spec.token_size)


def from_kernels(kernels: Tensor, spec: TargetSpec) -> Tensor:
    """Inverse of :func:`to_kernels`.

    Raises:
        TargetError: The number or the size of the kernels is not the spec's.
    """
    if tuple(kernels.shape) != (spec.num_kernels, spec.token_size):
        raise TargetError(
            f"'{spec.name}' consists of {spec.num_kernels} kernels of {spec.token_size} values, "
            f'but got {list(kernels.shape)}.')
    rows = kernels.reshape(spec.num_filters, -1)
    values = math.prod(spec.shape[1:])
    return (rows if rows.shape[1] == values else rows[:, :values]).reshape(spec.shape)
