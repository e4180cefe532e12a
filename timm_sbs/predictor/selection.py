"""Which weights of a model are generated."""
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from timm.layers import CondConv2d
from torch import Tensor, nn

from timm_sbs.common.config import OTHERS, POINTWISE_SIZE, SelectionRule
from timm_sbs.common.errors import TargetError
from timm_sbs.predictor.base_model import first_names, kept_names
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['named_in_cfg', 'explain_selection', 'select_weights', 'select_rounded', 'specs_from_names', 'rounded_names']

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, CondConv2d)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def named_in_cfg(model: nn.Module, key: str) -> tuple[str, ...]:
    """Modules that timm's ``pretrained_cfg`` names under 'first_conv' (the stem) or 'classifier'."""
    names = (getattr(model, 'pretrained_cfg', None) or {}).get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _keeps_linear_layers(model: nn.Module, ends: Sequence[str]) -> bool:
    """Whether a network has attention heads, but more weights in convolutions than in linear layers, but for its ends.

    What linear layers of such hybrids bear was not measured, and there is enough else to generate.
    """
    convolutions = linear = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name not in ends:
            convolutions += module.weight.numel()
        if isinstance(module, nn.Linear) and name not in ends:
            linear += module.weight.numel()
    return convolutions > linear and any(hasattr(m, 'num_heads') for m in model.modules())


def explain_selection(model: nn.Module, rule: SelectionRule = SelectionRule()) -> dict[str, str]:
    """Why each parameter is kept, or '' for a weight that is generated, by name.

    Generated are the weights of convolutions and linear layers, whatever their kernels and groups, apart from stem,
    classifier, small ones, and linear layers of networks of convolutions with some attention. With the method
    'rounding' nothing is. ``rule.generate`` names further tensors of two or more dimensions, ``rule.keep`` wins over
    all else. A weight that modules share has the first of its names.

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
        if not reasons[name] and rule.method == 'rounding':
            reasons[name] = 'rounded'
        if _matches(name, rule.generate) and parameter.dim() >= 2:
            reasons[name] = ''
        if not reasons[name] and _matches(name, rule.keep):
            reasons[name] = 'kept by name'
    return reasons


def select_weights(model: nn.Module, rule: SelectionRule = SelectionRule()) -> list[WeightSpec]:
    """The weights that a predictor generates, by the rule of :func:`explain_selection`, in the order of the network.

    Raises:
        TargetError: No weight is left to generate although the method is to generate, or a pattern names none.
    """
    reasons = explain_selection(model, rule)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for option, patterns in (('generate', rule.generate), ('keep', rule.keep)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) and len(shape) > 1 for name, shape in shapes.items()):
                raise TargetError(
                    f"--{option} '{pattern}' matches no weight of {type(model).__name__} with two or more dimensions. "
                    f"Names look like '{next(iter(reasons), '')}'.")
    specs = [WeightSpec(name, shapes[name], rule.pointwise_size) for name, reason in reasons.items() if not reason]
    if not specs and rule.method == 'generation':
        raise TargetError(
            f'{type(model).__name__} has no weight to generate: no convolution or linear layer but stem and classifier '
            f'has {rule.min_weights} weights. Lower the minimum size, name weights to generate, or round them all.')
    return specs


def select_rounded(model: nn.Module, rule: SelectionRule, generated: Collection[str]) -> list[str]:
    """Names of the weights that a quantized artifact rounds.

    They are all of two or more dimensions that are not generated, but for those that ``rule.keep`` names.
    """
    return [name for name, parameter in model.named_parameters()
            if parameter.dim() > 1 and name not in generated and not _matches(name, rule.keep)]


def specs_from_names(
        names: Sequence[str],
        base_state: Mapping[str, Tensor],
        base: str,
        pointwise_size: int = POINTWISE_SIZE,
) -> list[WeightSpec]:
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
        specs.append(WeightSpec(name, tuple(tensor.shape), pointwise_size))
    return specs


def rounded_names(rounded: Sequence[str], generated: Sequence[str], base_state: Mapping[str, Tensor]) -> list[str]:
    """Names of the rounded weights of a base model, in the order of its state dict.

    Args:
        rounded: As config.json has them: names, or ``OTHERS`` for all weights of two or more dimensions that are not
            generated.
        generated: Names of generated weights.
        base_state: The base model's state dict, on any device.

    Raises:
        TargetError: The model has no such weight, or it cannot be rounded.
    """
    chosen = set(rounded)
    if OTHERS in chosen:
        chosen.update(
            name for name in kept_names(base_state, generated)
            if base_state[name].dim() > 1 and base_state[name].is_floating_point())
        chosen.discard(OTHERS)
    first = first_names(base_state)
    for name in chosen:
        if name not in base_state or first[name] != name:
            raise TargetError(f"The base model has no weight '{name}' to round. Was it fitted to another model?")
        if base_state[name].dim() < 2 or not base_state[name].is_floating_point():
            raise TargetError(f"'{name}' is {base_state[name].dtype} of shape {list(base_state[name].shape)}, so it is "
                              f'no weight to round.')
    return [name for name in first if name in chosen]
