"""How a network uses its generated weights: found out by watching the operations of a forward pass, not its modules.

A module's type says little: timm pads before some convolutions, shares weights, standardizes them, or passes them to
attention. Whatever the module, a weight ends in :func:`torch.nn.functional.conv2d` or ``linear``.
"""
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from timm_sbs.targets import TargetSpec

__all__ = ['Call', 'Use', 'WatchedCalls', 'find_uses']

LARGEST_BLOCK = 4608  # inputs whose second moments are kept together: 85 MB


@dataclass(frozen=True)
class Call:
    """One application of a generated weight, by a convolution or a linear layer."""
    weight: Tensor
    inputs: Tensor  # [B, C, H, W], or [..., C] of a linear layer
    outputs: Tensor
    bias: Optional[Tensor] = None
    kernel: Tuple[int, ...] = ()  # empty for a linear layer, as all that follows
    stride: Tuple[int, ...] = ()
    padding: Tuple[int, ...] = ()
    dilation: Tuple[int, ...] = ()
    groups: int = 1

    @property
    def positions(self) -> int:
        """Places of one image at which the weight is applied."""
        if self.kernel:
            return math.prod(self.outputs.shape[2:])
        return self.outputs[0].numel() // self.outputs.shape[-1]


@dataclass(frozen=True)
class Use:
    """What a generated weight is in the network.

    Attributes:
        groups: Of the convolution.
        blocks: Parts of a group's inputs whose second moments are kept apart, for they would need too much memory.
        size: Inputs of a block: channels times kernel.
        positions: Places of one image at which the weight is applied, over all calls.
        corrector: Entry of the state dict with which a constant error of the outputs can be taken away: the layer's own
            bias, or the running mean of the BatchNorm that follows. None if there is neither.
        sign: With which the error is added to that entry.
    """
    groups: int
    blocks: int
    size: int
    positions: int
    corrector: Optional[str] = None
    sign: float = 1.

    @property
    def bytes(self) -> int:
        """Memory of the second moments, float32."""
        return 4 * self.groups * self.blocks * self.size ** 2


def _tuple(value: Union[int, Sequence[int]], length: int) -> Tuple[int, ...]:
    return (value,) * length if isinstance(value, int) else tuple(value)


class WatchedCalls(TorchFunctionMode):
    """While active, tells of every call of a convolution or linear layer whose weight is one of some tensors."""

    def __init__(
            self,
            weights: Mapping[int, str],
            watch: Callable[[str, Call], None],
            norm: Callable[[Tensor, Tensor], None] = lambda inputs, mean: None,
    ) -> None:
        """
        Args:
            weights: Names of the weights, by ``id``.
            watch: Called with the name and the call.
            norm: Called with the input and the running mean of each BatchNorm.
        """
        super().__init__()
        self._weights = weights
        self._watch = watch
        self._norm = norm

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func is F.conv2d or func is F.linear:
            named = self._named(func, *args, **(kwargs or {}))
            name = self._weights.get(id(named['weight']))
            if name is not None:
                self._watch(name, _call(outputs=outputs, **named))
        elif func is F.batch_norm:
            named = dict(zip(('input', 'running_mean'), args), **(kwargs or {}))
            if named.get('running_mean') is not None:
                self._norm(named['input'], named['running_mean'])
        return outputs

    @staticmethod
    def _named(func: Any, *args: Any, **kwargs: Any) -> Dict[str, Any]:
        names = ('input', 'weight', 'bias') if func is F.linear else (
            'input', 'weight', 'bias', 'stride', 'padding', 'dilation', 'groups')
        defaults = {} if func is F.linear else dict(stride=1, padding=0, dilation=1, groups=1)
        return {**defaults, **dict(zip(names, args)), **kwargs}


def _call(input: Tensor, weight: Tensor, outputs: Tensor, bias: Optional[Tensor] = None, **conv: Any) -> Call:
    if not conv:
        return Call(weight, input, outputs, bias)
    kernel = tuple(weight.shape[2:])
    stride, dilation = (_tuple(conv[name], len(kernel)) for name in ('stride', 'dilation'))
    padding = conv['padding']
    if padding == 'same':
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel))
    elif padding == 'valid':
        padding = 0
    return Call(weight, input, outputs, bias, kernel, stride, _tuple(padding, len(kernel)), dilation, conv['groups'])


def _blocks(channels: int, kernel: int) -> int:
    """The fewest equal parts of the input channels with which none has more than ``LARGEST_BLOCK`` inputs."""
    return next(parts for parts in range(1, channels + 1)
                if channels % parts == 0 and (channels // parts * kernel <= LARGEST_BLOCK or parts == channels))


@torch.no_grad()
def find_uses(model: nn.Module, specs: Sequence[TargetSpec], images: Tensor) -> Dict[str, Use]:
    """Uses of the generated weights, by name, from a forward pass of some images in eval mode.

    A weight is left out if no convolution or linear layer gets it as it is: one that is standardized first, that of a
    1-d or 3-d convolution, or one that no image reaches.
    """
    weights = {id(model.get_parameter(spec.name)): spec.name for spec in specs}
    entries = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    calls: Dict[str, List[Call]] = {}
    correctors: Dict[str, List[Optional[Tuple[str, float]]]] = {}  # of each call: entry of the state dict, and sign
    made_by: Dict[int, Tuple[str, int]] = {}  # id of an output that is alive in ``calls``: weight, and which call

    def watch(name: str, call: Call) -> None:
        calls.setdefault(name, []).append(call)
        own = entries.get(id(call.bias))
        correctors.setdefault(name, []).append((own, -1.) if own else None)
        made_by[id(call.outputs)] = name, len(calls[name]) - 1

    def norm(inputs: Tensor, mean: Tensor) -> None:
        if id(inputs) in made_by and id(mean) in entries:
            name, index = made_by[id(inputs)]
            correctors[name][index] = correctors[name][index] or (entries[id(mean)], 1.)

    was_training = model.training
    model.eval()
    try:
        with WatchedCalls(weights, watch, norm):
            model(images)
    finally:
        model.train(was_training)
    found = {}
    for name, each in calls.items():
        channels, kernel = each[0].weight.shape[1], math.prod(each[0].kernel)
        blocks = _blocks(channels, kernel)
        corrector, sign = correctors[name][0] if len(set(correctors[name])) == 1 and correctors[name][0] else (None, 1.)
        found[name] = Use(
            each[0].groups, blocks, channels // blocks * kernel, sum(call.positions for call in each), corrector, sign)
    return {spec.name: found[spec.name] for spec in specs if spec.name in found}
