"""The predictor: a small multilayer perceptron from features to kernels."""
import math
from typing import Iterable, List

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.config import PredictorConfig
from timm_sbs.errors import ConfigError

__all__ = ['Predictor', 'num_predictor_parameters', 'width_for_budget']

_ACTIVATIONS = {'gelu': F.gelu, 'relu': F.relu, 'sine': torch.sin}


class Predictor(nn.Module):
    """A multilayer perceptron with a shared trunk and one output layer ('head') for each kernel size.

    Shapes: N kernels, F features, T values in a kernel
        features [N, F] -> kernels [N, T]

    Attributes:
        output_scale: Standard deviation of the original kernels, by which outputs are multiplied, so that the
            perceptron itself works with values of unit size. Not trained.
    """

    def __init__(self, feature_width: int, token_sizes: Iterable[int], config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [feature_width] + [config.width] * (config.linear_layers - 1)
        self.trunk = nn.ModuleList(nn.Linear(i, o) for i, o in zip(widths[:-1], widths[1:]))
        self.heads = nn.ModuleDict({str(t): nn.Linear(config.width, t) for t in sorted(set(token_sizes))})
        self.register_buffer('output_scale', torch.ones(()))

    def forward(self, features: Tensor, token_size: int) -> Tensor:
        activation = _ACTIVATIONS[self.config.activation]
        for layer in self.trunk:
            features = activation(layer(features))
        return self.heads[str(token_size)](features) * self.output_scale


def num_predictor_parameters(feature_width: int, token_sizes: Iterable[int], config: PredictorConfig) -> int:
    """Trained parameters of a predictor, without building it."""
    width, hidden = config.width, config.linear_layers - 2
    heads = sum((width + 1) * t for t in set(token_sizes))
    return (feature_width + 1) * width + hidden * (width + 1) * width + heads


def width_for_budget(
        budget: int,
        feature_width: int,
        token_sizes: Iterable[int],
        linear_layers: int,
) -> int:
    """The largest hidden width whose predictor has at most ``budget`` parameters.

    Raises:
        ConfigError: Even a predictor of width 1 is larger; names the smallest size.
    """
    token_sizes: List[int] = sorted(set(token_sizes))

    def size(width: int) -> int:
        return num_predictor_parameters(feature_width, token_sizes, PredictorConfig(width, linear_layers))

    if size(1) > budget:
        raise ConfigError(
            f'A predictor of {budget} parameters cannot exist: with {feature_width} features and {linear_layers} '
            f'linear layers the smallest has {size(1)}. Allow more parameters, or use fewer frequencies or layers.')
    hidden = linear_layers - 2
    linear = feature_width + 1 + hidden + sum(token_sizes)
    constant = sum(token_sizes)
    if hidden:
        root = math.sqrt(linear ** 2 + 4 * hidden * (budget - constant))
        width = int((root - linear) / (2 * hidden))
    else:
        width = (budget - constant) // linear
    while size(width + 1) <= budget:
        width += 1
    while size(width) > budget:
        width -= 1
    return width
