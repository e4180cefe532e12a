"""The predictor: a small multilayer perceptron from features to kernels."""
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.config import PredictorConfig
from timm_sbs.common.errors import ConfigError

__all__ = ['Predictor', 'num_predictor_parameters', 'predictor_for_budget']

_Activation = Callable[[Tensor], Tensor]
# Of each: the function that returns a new tensor, and the one that works in place.
_ACTIVATIONS: dict[str, tuple[_Activation, _Activation]] = {
    'gelu': (F.gelu, torch.ops.aten.gelu_), 'relu': (F.relu, torch.relu_), 'sine': (torch.sin, torch.sin_)}


class Predictor(nn.Module):
    """A multilayer perceptron with a shared trunk and one output layer ('head') for each output size; without layers
    where nothing is generated.

    Shapes: N positions, F features, G kernels at a position, T values in a kernel
        features [N, F] -> kernels [N, G * T]

    Attributes:
        output_scale: Of each generated weight, in their order [W]: its kernels are multiplied by this, so that the
            perceptron itself works with values of unit size. Not trained.
    """
    output_scale: Tensor

    def __init__(self, feature_width: int, output_sizes: Iterable[int], config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        widths, output_sizes = [feature_width, *config.hidden_widths], list(output_sizes)
        sizes = sorted(set(output_sizes))
        self.trunk = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths) if sizes)
        self.heads = nn.ModuleDict({str(t): nn.Linear(widths[-1], t) for t in sizes})
        self.register_buffer('output_scale', torch.ones(len(output_sizes)))

    def forward(self, features: Tensor, output_size: int, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Kernels before scaling, by ``parameters`` of these names where they are not the predictor's own, such as
        rounded ones."""
        at = dict(self.named_parameters()) if parameters is None else parameters
        activation, _ = _ACTIVATIONS[self.config.activation]
        for index in range(len(self.trunk)):
            features = activation(F.linear(features, at[f'trunk.{index}.weight'], at[f'trunk.{index}.bias']))
        head = f'heads.{output_size}'
        return F.linear(features, at[f'{head}.weight'], at[f'{head}.bias'])

    @torch.no_grad()
    def write(self, features: Tensor, kernels: Tensor) -> None:
        """What :meth:`forward` returns, without autograd, into ``kernels``; activations are computed in place."""
        _, activation = _ACTIVATIONS[self.config.activation]
        for layer in self.trunk:
            features = activation(layer(features))
        head = self.heads[str(kernels.shape[1])]
        bias, weight = head.get_parameter('bias'), head.get_parameter('weight')
        torch.addmm(bias, features, weight.T, out=kernels)


def num_predictor_parameters(feature_width: int, output_sizes: Iterable[int], config: PredictorConfig) -> int:
    """Trained parameters of a predictor, without building it."""
    widths, output_sizes = [feature_width, *config.hidden_widths], set(output_sizes)
    if not output_sizes:
        return 0
    return sum((i + 1) * o for i, o in pairwise(widths)) + sum((widths[-1] + 1) * t for t in output_sizes)


def predictor_for_budget(
        budget: int,
        feature_width: int,
        output_sizes: Iterable[int],
        config: PredictorConfig,
) -> PredictorConfig:
    """The largest predictor of at most ``budget`` parameters: as wide as fits, with as many extra units in the last
    hidden layer as fit then. Equal widths alone would miss a budget by some percent.

    Args:
        budget: Parameters.
        feature_width: Features of a kernel.
        output_sizes: Of all layers.
        config: Layers and activation; its width is ignored.

    Raises:
        ConfigError: Even a predictor of width 1 is larger; names the smallest size.
    """
    output_sizes = sorted(set(output_sizes))

    def size(width: int, extra: int = 0) -> int:
        candidate = dataclasses.replace(config, width=width, extra=extra)
        return num_predictor_parameters(feature_width, output_sizes, candidate)

    if size(1) > budget:
        raise ConfigError(
            f'{budget} parameters are too few: with {feature_width} features and {config.linear_layers} linear layers '
            f'the smallest predictor has {size(1)}. Allow more parameters, or use fewer frequencies or layers.')
    width = _largest(lambda n: size(n) <= budget)
    return dataclasses.replace(config, width=width, extra=_largest(lambda n: size(width, n) <= budget, 0))


def _largest(fits: Callable[[int], bool], low: int = 1) -> int:
    """The largest number for which ``fits`` holds, given that it holds for ``low`` and not for all above."""
    high = low + 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
