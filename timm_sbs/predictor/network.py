"""The predictor: a small multilayer perceptron from features to kernels."""
import dataclasses
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.config import MAX_WIDTH, PredictorConfig
from timm_sbs.common.errors import ArtifactError, ConfigError

__all__ = ['Predictor', 'check_parameters', 'num_predictor_parameters', 'predictor_for_budget']

PARAMETERS_PER_BYTE = 64  # that is stored; one takes 1 bit or more where training does not make them cheaper
_WIDTHS = range(1, MAX_WIDTH + 1)  # those that a configuration may have
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {'gelu': F.gelu, 'relu': F.relu, 'sine': torch.sin}


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
        activation = _ACTIVATIONS[self.config.activation]
        for index in range(len(self.trunk)):
            features = activation(F.linear(features, at[f'trunk.{index}.weight'], at[f'trunk.{index}.bias']))
        head = f'heads.{output_size}'
        return F.linear(features, at[f'{head}.weight'], at[f'{head}.bias'])


def check_parameters(parameters: int, tensors: Mapping[str, Tensor]) -> None:
    """Raises ArtifactError if a predictor has more parameters than the stored tensors may describe: coded zeros take
    next to nothing, and each parameter is multiplied by the features of each kernel."""
    stored = sum(tensor.nbytes for tensor in tensors.values())
    if parameters > PARAMETERS_PER_BYTE * stored:
        raise ArtifactError(
            f'The predictor has {parameters:,} parameters, but the stored tensors take {stored:,} bytes, each of which '
            f'may stand for {PARAMETERS_PER_BYTE} at the most.')


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
    ``config`` says how many layers and which activation.

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
    width = bisect_right(_WIDTHS, budget, key=size)
    return dataclasses.replace(config, width=width, extra=bisect_right(_WIDTHS, budget, key=partial(size, width)))
