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

from timm_sbs.predictor.tokens import WeightSpec

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

    @property
    def bytes(self) -> int:
        """Memory of the second moments, float32."""
        return 4 * self.groups * self.blocks * self.size ** 2


def _tuple(value: int | Sequence[int], length: int) -> tuple[int, ...]:
    return (value,) * length if isinstance(value, int) else tuple(value)


class WatchedCalls(TorchFunctionMode):
    """While active, tells of every call of a convolution or linear layer whose weight is one of some tensors."""

    def __init__(
            self,
            weights: Mapping[int, str],
            images: int,
            watch: Callable[[str, Call], None],
            norm: Callable[[Tensor, Tensor], None] = lambda inputs, mean: None,
    ) -> None:
        """
        Args:
            weights: Names of the weights, by ``id``.
            images: In the batch that is about to be looked at.
            watch: Called with the name and the call.
            norm: Called with the input and the running mean of each BatchNorm.
        """
        super().__init__()
        self._weights = weights
        self._images = images
        self._watch = watch
        self._norm = norm

    def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Sequence[type],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func is F.conv2d or func is F.linear:
            named = self._named(func, *args, **(kwargs or {}))
            name = self._weights.get(id(named['weight']))
            if name is not None:
                call = _call(outputs=outputs, images=self._images, **named)
                if call is not None:
                    self._watch(name, call)
        elif func is F.batch_norm:
            named = dict(zip(('input', 'running_mean'), args), **(kwargs or {}))
            if named.get('running_mean') is not None:
                self._norm(named['input'], named['running_mean'])
        return outputs

    @staticmethod
    def _named(func: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        names = ('input', 'weight', 'bias') if func is F.linear else (
            'input', 'weight', 'bias', 'stride', 'padding', 'dilation', 'groups')
        defaults = {} if func is F.linear else dict(stride=1, padding=0, dilation=1, groups=1)
        return {**defaults, **dict(zip(names, args)), **kwargs}


def _call(
        input: Tensor, weight: Tensor, outputs: Tensor, images: int, bias: Tensor | None = None, **conv: Any,
) -> Call | None:
    """None for what cannot be told apart by images: their number has to be that of a convolution's batch, and a divisor
    of a linear layer's (windows of attention, for instance, lie in its batch)."""
    if not conv:
        return None if input.dim() < 2 or len(input) % images else Call(weight, input, outputs, images, bias)
    if input.dim() != weight.dim() or len(input) != images:
        return None
    kernel = tuple(weight.shape[2:])
    stride, dilation = (_tuple(conv[name], len(kernel)) for name in ('stride', 'dilation'))
    padding = conv['padding']
    if padding == 'same':
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        pairs = tuple((n // 2, n - n // 2) for n in total)
    else:
        pairs = tuple((n, n) for n in _tuple(0 if padding == 'valid' else padding, len(kernel)))
    return Call(weight, input, outputs, images, bias, kernel, stride, pairs, dilation, conv['groups'])


def _blocks(channels: int, kernel: int) -> int:
    """The fewest equal parts of the input channels with which none has more than ``LARGEST_BLOCK`` inputs."""
    return next(parts for parts in range(1, channels + 1)
                if channels % parts == 0 and (channels // parts * kernel <= LARGEST_BLOCK or parts == channels))


def find_uses(model: nn.Module, specs: Sequence[WeightSpec], images: Tensor) -> dict[str, Use]:
    """Uses of the generated weights, by name, from a forward pass of some images in eval mode.

    A weight is left out if no convolution or linear layer gets it as it is: one that is standardized first, that of a
    1-d or 3-d convolution, one that is applied to constants, or one that no image reaches.

    Args:
        model: With parameters that require no gradient.
        specs: The generated weights.
        images: [B, C, H, W]; their values do not matter.
    """
    weights = {id(model.get_parameter(spec.name)): spec.name for spec in specs}
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

    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad(), WatchedCalls(weights, len(images), watch, norm):
            model(images.detach().requires_grad_())
    finally:
        model.train(was_training)
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
    return {spec.name: found[spec.name] for spec in specs if spec.name in found}
