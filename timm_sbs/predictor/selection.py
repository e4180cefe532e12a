"""Which weights of a model are generated, and which are rounded."""
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from timm.layers import CondConv2d
from torch import Tensor, nn

from timm_sbs.common.config import OTHERS, SelectionRule
from timm_sbs.common.errors import TargetError
from timm_sbs.predictor.base_model import first_names, kept_names
from timm_sbs.predictor.pretrained_cfg import named_in_cfg
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['explain_selection', 'select_weights', 'select_rounded', 'specs_from_names', 'rounded_names']

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, CondConv2d)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _keeps_linear_layers(model: nn.Module, ends: Sequence[str]) -> bool:
    """Whether a network has attention heads, but, apart from its ends, more weights in convolutions than in linear
    layers. How accurate such hybrids are with generated linear layers was not measured.
    """
    inner = [module for name, module in model.named_modules() if name not in ends]
    convolutions, linear = (
        sum(m.weight.numel() for m in inner if isinstance(m, kind)) for kind in (nn.Conv2d, nn.Linear))
    return convolutions > linear and any(hasattr(m, 'num_heads') for m in model.modules())


def explain_selection(model: nn.Module, rule: SelectionRule = SelectionRule()) -> dict[str, str]:
    """Why each parameter is not generated, or '' for a weight that is, by name.

    Generated are the weights of convolutions and linear layers, whatever their kernels and groups, apart from stem and
    classifier (of which timm's ``pretrained_cfg`` knows the names), small ones, and linear layers of networks of
    convolutions with some attention. With the method 'rounding' none is. ``rule.generate`` names further tensors of two
    or more dimensions, ``rule.keep`` overrules everything else. A weight that modules share has the first of its names.
    """
    described = getattr(model, 'pretrained_cfg', None) or {}
    stems, classifiers = named_in_cfg(described, 'first_conv'), named_in_cfg(described, 'classifier')
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
        if not reasons[name] and rule.method == 'rounding':
            reasons[name] = 'rounded'
        if _matches(name, rule.generate) and parameter.dim() >= 2:
            reasons[name] = ''
        if not reasons[name] and _matches(name, rule.keep):
            reasons[name] = 'named by --keep'
    return reasons


def select_weights(model: nn.Module, rule: SelectionRule = SelectionRule()) -> list[WeightSpec]:
    """The weights that a predictor generates, by the rule of :func:`explain_selection`, in the order of the network.

    Raises:
        TargetError: No weight is left to generate although the method is to generate, or a pattern matches none.
    """
    reasons = explain_selection(model, rule)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for option, patterns in (('generate', rule.generate), ('--keep', rule.keep)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) and len(shape) > 1 for name, shape in shapes.items()):
                raise TargetError(
                    f"{option} '{pattern}' matches no weight of {type(model).__name__} with two or more dimensions. "
                    f"Names look like '{next(iter(reasons), '')}'.")
    specs = [WeightSpec(name, shapes[name]) for name, reason in reasons.items() if not reason]
    if not specs and rule.method == 'generation':
        raise TargetError(
            f'{type(model).__name__} has no weight to generate: apart from stem and classifier, no convolution or '
            f'linear layer has {rule.min_weights} weights. Lower min_weights, name weights with generate, or round all '
            f'weights with --bytes.')
    return specs


def select_rounded(model: nn.Module, rule: SelectionRule, generated: Collection[str]) -> list[str]:
    """Names of the weights that a quantized artifact rounds: those of two or more dimensions that are neither generated
    nor named by ``rule.keep``."""
    return [name for name, parameter in model.named_parameters()
            if parameter.dim() > 1 and name not in generated and not _matches(name, rule.keep)]


def _check(names: Iterable[str], base_state: Mapping[str, Tensor], base: str, verb: str) -> None:
    """Raises TargetError unless the base model has weights of these names that can be generated or rounded."""
    first = first_names(base_state)
    for name in names:
        if name not in base_state:
            raise TargetError(f"There is no weight '{name}' in {base}. Was the artifact made from another model?")
        if first[name] != name:
            raise TargetError(f"'{name}' of {base} shares its values with '{first[name]}', which is to be {verb}.")
        if base_state[name].dim() < 2 or not base_state[name].is_floating_point():
            raise TargetError(f"'{name}' of {base} cannot be {verb}: it is {base_state[name].dtype} of shape "
                              f'{list(base_state[name].shape)}.')


def specs_from_names(names: Sequence[str], base_state: Mapping[str, Tensor], base: str) -> list[WeightSpec]:
    """Specs of named weights, with the shapes that the base model gives them.

    Raises:
        TargetError: The model has no such weight, or it cannot be generated.
    """
    _check(names, base_state, f"'{base}'", 'generated')
    return [WeightSpec(name, tuple(base_state[name].shape)) for name in names]


def rounded_names(rounded: Sequence[str], generated: Sequence[str], base_state: Mapping[str, Tensor]) -> list[str]:
    """Names of the rounded weights of a base model, in the order of its state dict.

    ``rounded`` is as config.json has it: names, or ``OTHERS`` for all weights of two or more dimensions that are not
    generated.

    Raises:
        TargetError: The model has no such weight, or it cannot be rounded.
    """
    chosen = set(rounded) - {OTHERS}
    _check(chosen, base_state, 'the base model', 'rounded')
    if OTHERS in rounded:
        chosen.update(
            name for name in kept_names(base_state, generated)
            if base_state[name].dim() > 1 and base_state[name].is_floating_point())
    return [name for name in base_state if name in chosen]
