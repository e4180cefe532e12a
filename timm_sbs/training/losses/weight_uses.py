"""How a network uses its generated weights: found out by watching the operations of a forward pass, not its modules.

A module's type says little: timm pads before some convolutions, shares weights, standardizes them, or passes them to
attention. Whatever the module, a weight ends in :func:`torch.nn.functional.conv2d` or ``linear``.
"""
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ['Call', 'Use', 'WatchedCalls', 'find_uses']

LARGEST_BLOCK = 4608  # inputs whose second moments are kept together: 85 MB


@dataclass(frozen=True)
class Call:
    """One application of a generated weight, by a convolution or a linear layer."""
    weight: Tensor
    inputs: Tensor  # [B, C, H, W]; of a linear layer [B, ..., C] or, where positions lie in the batch, [B * n, ..., C]
    outputs: Tensor
    images: int  # B
    bias: Tensor | None = None
    kernel: tuple[int, ...] = ()  # empty for a linear layer, as all that follows
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()  # before and behind
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def positions(self) -> int:
        """Places of one image at which the weight is applied."""
        return self.outputs.numel() // (self.weight.shape[0] * self.images)


@dataclass(frozen=True)
class Use:
    """What a generated weight is in the network.

    Attributes:
        groups: Of the convolution.
        blocks: Parts of a group's inputs whose second moments are kept apart, for they would need too much memory.
        size: Inputs of a block: channels times kernel.
        positions: Places of one image at which the weight is applied, over all calls.
        corrector: Entry of the state dict with which a constant error of the outputs can be taken away: the layer's own
            bias, or the running mean of the BatchNorm that follows. None if there is neither, or if the weight is
            applied more than once, or others have the same entry.
        sign: With which the error is added to that entry.
    """
    groups: int
    blocks: int
    size: int
    positions: int
    corrector: str | None = None
    sign: float = 1.


# Names of the arguments, where they are given by position.
_NAMES: Mapping[Any, tuple[str, ...]] = {
    F.conv2d: ('input', 'weight', 'bias', 'stride', 'padding', 'dilation', 'groups'),
    F.linear: ('input', 'weight', 'bias'), F.batch_norm: ('input', 'running_mean')}


class WatchedCalls(TorchFunctionMode):
    """While active, tells of every call of a convolution or linear layer whose weight is one of some tensors.

    Args:
        weights: Names of the weights, by ``id``.
        images: In the batch that is about to be looked at.
        watch: Called with the name and the call.
        norm: Called with the input and the running mean of each BatchNorm.
    """

    def __init__(
            self,
            weights: Mapping[int, str],
            images: int,
            watch: Callable[[str, Call], None],
            norm: Callable[[Tensor, Tensor], None] = lambda inputs, mean: None,
    ) -> None:
        super().__init__()
        self._weights, self._images, self._watch, self._norm = weights, images, watch, norm

    def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Sequence[type],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func in _NAMES:
            named = dict(zip(_NAMES[func], args), **(kwargs or {}))
            if func is F.batch_norm:
                if named.get('running_mean') is not None:
                    self._norm(named['input'], named['running_mean'])
            elif name := self._weights.get(id(named['weight'])):
                make = _conv_call if func is F.conv2d else _linear_call
                if call := make(outputs=outputs, images=self._images, **named):
                    self._watch(name, call)
        return outputs


def _linear_call(
        input: Tensor, weight: Tensor, outputs: Tensor, images: int, bias: Tensor | None = None) -> Call | None:
    """None where inputs cannot be told apart by images, whose number has to be a divisor of the batch: windows of
    attention, for instance, lie in it."""
    return None if input.dim() < 2 or len(input) % images else Call(weight, input, outputs, images, bias)


def _conv_call(
        input: Tensor,
        weight: Tensor,
        outputs: Tensor,
        images: int,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
) -> Call | None:
    """None where inputs cannot be told apart by images."""
    if input.dim() != weight.dim() or len(input) != images:
        return None
    kernel, strides, dilations = tuple(weight.shape[2:]), _pair(stride), _pair(dilation)
    if padding == 'same':
        total = [d * (k - 1) for d, k in zip(dilations, kernel)]
        paddings = tuple((n // 2, n - n // 2) for n in total)
    else:
        paddings = tuple((n, n) for n in _pair(0 if isinstance(padding, str) else padding))
    return Call(weight, input, outputs, images, bias, kernel, strides, paddings, dilations, groups)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * (2 // len(values))


def _blocks(channels: int, kernel: int) -> int:
    """The fewest equal parts of the input channels with which none has more than ``LARGEST_BLOCK`` inputs."""
    return next(parts for parts in range(1, channels + 1)
                if channels % parts == 0 and (channels // parts * kernel <= LARGEST_BLOCK or parts == channels))


def find_uses(model: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, Use]:
    """Uses of the generated or rounded weights, by name, from a forward pass of some images.

    A weight is left out if no convolution or linear layer gets it as it is: one that is standardized first, that of a
    1-d or 3-d convolution, one that is applied to constants, or one that no image reaches.

    The model is in eval mode, with parameters that require no gradient; values of images [B, C, H, W] do not matter.
    """
    weights = {id(model.get_parameter(name)): name for name in names}
    entries = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    calls: dict[str, list[Call]] = {}
    correctors: dict[str, tuple[str, float]] = {}  # entry of the state dict, and sign
    made_by: dict[tuple[int, int], str] = {}  # id and version of an output that is alive in ``calls``

    def watch(name: str, call: Call) -> None:
        if not call.outputs.requires_grad:
            return
        calls.setdefault(name, []).append(call)
        made_by[id(call.outputs), call.outputs._version] = name
        if id(call.bias) in entries:
            correctors[name] = entries[id(call.bias)], -1.

    def norm(inputs: Tensor, mean: Tensor) -> None:
        name = made_by.get((id(inputs), inputs._version))  # another version: an activation was applied in place
        if name is not None and id(mean) in entries:
            correctors.setdefault(name, (entries[id(mean)], 1.))

    with torch.enable_grad(), WatchedCalls(weights, len(images), watch, norm):
        model(images.detach().requires_grad_())
    claims = Counter(entry for entry, _ in correctors.values())
    found = {}
    for name, each in calls.items():
        channels, kernel = each[0].weight.shape[1], math.prod(each[0].kernel)
        blocks = _blocks(channels, kernel)
        corrector, sign = correctors.get(name, (None, 1.))
        if len(each) > 1 or (corrector is not None and claims[corrector] > 1):
            corrector, sign = None, 1.
        found[name] = Use(
            each[0].groups, blocks, channels // blocks * kernel, sum(call.positions for call in each), corrector, sign)
    return {name: found[name] for name in names if name in found}
