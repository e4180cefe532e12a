"""A weight as kernel tokens, and back."""
import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from timm_sbs.common.config import LARGEST_TOKEN, POINTWISE_SIZE
from timm_sbs.common.errors import TargetError

__all__ = ['WeightSpec', 'to_kernels', 'from_kernels']


@dataclass(frozen=True)
class WeightSpec:
    """A generated weight, seen as a grid of tokens: a row for each of its filters, ``num_channels`` tokens in a row.

    A token is, for a weight [out_channels, in_channels // groups, *kernel] or [out_features, in_features],

    - one kernel of up to 64 values, such as 3x3, 5x5, 7x7 or 1x11, depthwise ones too;
    - one row of a larger kernel: 31 tokens of 31 values for 31x31;
    - eight successive input channels of one filter where kernels have one value: 1x1 convolutions and linear layers.
      Zeros fill the last token of a row up.
    """
    name: str
    shape: tuple[int, ...]

    @property
    def token_size(self) -> int:
        kernel = math.prod(self.shape[2:])
        if 1 < kernel <= LARGEST_TOKEN:
            return kernel
        if kernel > LARGEST_TOKEN and 1 < self.shape[-1] <= LARGEST_TOKEN:
            return self.shape[-1]
        return POINTWISE_SIZE

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


def to_kernels(weight: Tensor, spec: WeightSpec) -> Tensor:
    """Kernel tokens of a weight: its own shape -> [num_kernels, token_size].

    Raises:
        TargetError: The weight does not have the spec's shape.
    """
    if tuple(weight.shape) != spec.shape:
        raise TargetError(f"Weight '{spec.name}' has shape {list(weight.shape)}, but {list(spec.shape)} was expected.")
    rows = weight.reshape(spec.num_filters, -1)
    missing = spec.num_channels * spec.token_size - rows.shape[1]
    return (F.pad(rows, (0, missing)) if missing else rows).reshape(spec.num_kernels, spec.token_size)


def from_kernels(kernels: Tensor, spec: WeightSpec) -> Tensor:
    """Inverse of :func:`to_kernels`."""
    rows = kernels.reshape(spec.num_filters, -1)
    values = math.prod(spec.shape[1:])
    return (rows if rows.shape[1] == values else rows[:, :values]).reshape(spec.shape)
