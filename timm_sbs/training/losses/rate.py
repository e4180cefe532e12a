"""The bits that integers take, as a part of the loss."""
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from timm_sbs.codec.matrices import BOUNDS, PREDICTIONS
from timm_sbs.codec.quantization import step_sizes

__all__ = ['Rate']

UNSEEN = 0.02  # added to each count, so that every integer has a finite length
SPREAD = 0.01  # part of a count that the integers beside it get
RISE = 0.04  # of the weight's logarithm in a step, at the most
SLOPE = 20.  # of that rise over the relative excess
BRAKE = 40.  # of an immediate change besides: integers that became zero do not come back when the rate falls
LIMITS = 1e-4, 1e4  # of the weight


class Rate(nn.Module):
    """The bits of integer-valued weights by an entropy code, with a weight that follows a wanted number.

    The loss is L + weight * bits / N for N numbers. A number w of step s lies between two integers, whose code lengths
    follow from how often its tensor has them at the moment, beside neighbours in the kernel that predict the same (as
    :mod:`timm_sbs.codec.matrices` predicts, with its classes of large integers). Lengths between integers are
    interpolated, so that the derivative by w is the difference of both lengths over s. It moves weights to cheaper
    integers, most of all to zero, where the loss does not hold against it. Entropy-penalized reparameterization (arXiv
    1906.06624) has a learned density for each tensor instead of counts; counts, contexts and interpolation are ours.

    The weight rises while the integers take more bits than wanted, and falls while they take fewer. The wanted number
    falls along a cosine from what the integers take at first.
    """
    _steps: Tensor  # of each number
    _tensor: Tensor  # which one each number belongs to
    _neighbours: Tensor  # [3, N]: numbers above, to the left, and between both in the kernel; N where there is none
    _ends: Tensor  # [C + 1]: integers where classes begin, and where the last one ends
    _middles: Tensor  # [C]: of the integers of each class
    start_bits: Tensor
    target_bits: Tensor
    log_weight: Tensor

    def __init__(
            self,
            codes: Mapping[str, Tensor],
            tensors: Mapping[str, Tensor],
            first_weight: float = 1.,
    ) -> None:
        """
        Args:
            codes: Of the steps of all tensors, by name: [] or [R, 1, ...].
            tensors: Of these names, which are then given to all methods.
            first_weight: Of the bits in the loss, at the first step.
        """
        super().__init__()
        self.names = tuple(codes)
        sizes = [tensors[name].numel() for name in self.names]
        self.size = sum(sizes)
        steps = [step_sizes(codes[name]).expand(tensors[name].shape).flatten() for name in self.names]
        tensor = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(torch.tensor(sizes))
        places = [_neighbours(tensors[name].shape) for name in self.names]
        firsts = [sum(sizes[:index]) for index in range(len(sizes))]
        neighbours = [torch.where(p < 0, self.size, p + first) for p, first in zip(places, firsts)]
        positive = torch.from_numpy(BOUNDS[1:])
        ends = torch.cat([1 - positive.flip(0), positive])  # 0 is a class by itself
        for name, values in (
                ('_steps', torch.cat(steps)), ('_tensor', tensor), ('_neighbours', torch.cat(neighbours, 1).int()),
                ('_ends', ends.float()), ('_middles', (ends[:-1] + ends[1:] - 1) / 2)):
            self.register_buffer(name, values, persistent=False)
        for name, value in (('start_bits', 0.), ('target_bits', 0.), ('log_weight', math.log(first_weight))):
            self.register_buffer(name, torch.tensor(value))

    def set_target(self, bits: float) -> None:
        """Wanted bits of all integers."""
        self.target_bits.fill_(bits)

    @torch.no_grad()
    def bits(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Bits of the integers of all tensors: []."""
        scaled, row, _ = self._in_context(tensors)
        return self._tables(scaled, row)[0]

    @torch.no_grad()
    def add_gradients(self, parameters: Mapping[str, nn.Parameter], progress: float, scale: float = 1.) -> None:
        """Add the derivative of the rate to the parameters' gradients, and let its weight follow the wanted bits.

        Args:
            parameters: Of all tensors, with gradients.
            progress: Part of the steps after which the wanted number is to hold that is over, from 0 to 1.
            scale: By which the loss was scaled.
        """
        scaled, row, sign = self._in_context(parameters)
        bits, slopes = self._tables(scaled, row)
        self.start_bits.copy_(torch.where(self.start_bits > 0, self.start_bits, bits))
        falling = (1 + math.cos(math.pi * min(1., progress))) / 2
        wanted = self.target_bits + (self.start_bits - self.target_bits).clamp(min=0) * falling
        excess = (bits - wanted) / wanted.clamp(min=1.)
        self.log_weight.add_(RISE * (SLOPE * excess).clamp(-1, 1)).clamp_(*map(math.log, LIMITS))
        weight = (self.log_weight + (BRAKE * excess).clamp(-4, 2)).exp() * scale / self.size
        below = (torch.bucketize(scaled, self._middles, right=True) - 1).clamp(0, len(self._middles) - 2)
        derivative = slopes[row, below] * sign / self._steps * weight
        for name, part in zip(self.names, derivative.split([parameters[name].numel() for name in self.names])):
            parameter = parameters[name]
            part = part.view_as(parameter)
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad + part

    def _in_context(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """All numbers in steps, turned to the sign that their neighbours predict; rows of tables; and that sign."""
        scaled = torch.cat([tensors[name].detach().float().flatten() for name in self.names]) / self._steps
        integers = torch.cat([scaled.round(), scaled.new_zeros(1)])
        above, left, corner = (integers.index_select(0, places) for places in self._neighbours)
        prediction = 2 * (above + left)
        prediction = prediction - torch.where(prediction == 0, 0., corner)
        sign = torch.where(prediction < 0, -1., 1.)
        row = self._tensor.long() * PREDICTIONS + prediction.abs().clamp(max=PREDICTIONS - 1).long()
        return scaled * sign, row, sign

    def _tables(self, scaled: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of all integers, [], and by how much their codes grow with them, from the middle of each class to that
        of the next: [rows, C - 1]."""
        rows, count = len(self.names) * PREDICTIONS, len(self._middles)
        columns = (torch.bucketize(scaled.round(), self._ends, right=True) - 1).clamp(0, count - 1)
        counts = torch.bincount(row * count + columns, minlength=rows * count).view(rows, count).float()
        smooth = counts + UNSEEN
        smooth[:, 1:] += SPREAD * counts[:, :-1]
        smooth[:, :-1] += SPREAD * counts[:, 1:]
        lengths = (smooth.sum(1, keepdim=True) / smooth).log2() + self._ends.diff().log2()  # place in the class
        return (counts * lengths).sum(), lengths.diff(dim=1) / self._middles.diff()


def _neighbours(shape: Sequence[int]) -> Tensor:
    """Places of the numbers above, to the left, and above to the left of each number in its kernel, in a flat weight
    [filters, channels, ...]: [3, N]. -1 where there is none, as in all kernels whose number of values is no
    square."""
    side = math.isqrt(math.prod(shape[2:]))
    if side * side != math.prod(shape[2:]):
        return torch.full((3, math.prod(shape)), -1)
    places = torch.arange(math.prod(shape)).view(-1, side, side)
    padded = torch.full((len(places), places.shape[1] + 1, places.shape[2] + 1), -1)
    padded[:, 1:, 1:] = places
    return torch.stack([padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, :-1, :-1]]).flatten(1)
