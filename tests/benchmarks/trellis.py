"""Rounding of a weight by a trellis (dependent quantization, as in VVC and MPEG's NNC), for rounding_methods.py.

There are two grids of steps s: even multiples of s, and odd ones with zero. Which one a value has follows from the
parities of the integers before it in its row, by a machine of 4 states, so that values are as far apart as 2 s and
rows of values lie as densely as with s. As in timm_sbs, values are settled one after another, and those after each make
up for its error; four candidates for each row, one for each state, are carried along until a block of columns is full.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_sbs.training.losses.divergence import Curvature
from timm_sbs.training.rounding.all_weights import entropy_bits
from timm_sbs.training.rounding.one_weight import _shrunk

__all__ = ['TrellisRounded', 'round_by_trellis']

BLOCK, TABLE, PASSES = 64, 255, 3
NEXT = torch.tensor([[0, 2], [2, 0], [1, 3], [3, 1]])  # state after an even and after an odd integer
STATES = len(NEXT)


@dataclass(frozen=True, eq=False)
class TrellisRounded:
    """Values [O, ...] and the integers they stand for, with the grid that each has."""
    values: Tensor
    integers: Tensor
    odd: Tensor

    @property
    def bits(self) -> float:
        """With an ideal entropy coder and a table for each grid."""
        return sum(entropy_bits(self.integers[self.odd == grid]) for grid in (False, True))


def _lengths(integers: Tensor, odd: Tensor) -> Tensor:
    """Bits of integers from -TABLE to TABLE on both grids: [2, 2 TABLE + 1]."""
    tables = []
    for grid in (False, True):
        places = integers[odd == grid].long().clamp(-TABLE, TABLE) + TABLE
        counts = torch.bincount(places, minlength=2 * TABLE + 1) + 0.3
        tables.append(-torch.log2(counts / counts.sum()))
    return torch.stack(tables)


def values_of(integers: Tensor, odd: Tensor) -> Tensor:
    """In steps."""
    return 2 * integers - torch.where(odd, integers.sign(), torch.zeros_like(integers))


def round_by_trellis(weight: Tensor, curvature: Curvature, step: float, slope: float, prior: float) -> TrellisRounded:
    """A weight in steps of ``step``, with little divergence + slope * bits; ``prior`` as in timm_sbs.

    Lengths of integers are those of the last pass; the first has those of plain rounding.
    """
    target = curvature.parts(weight.detach().to(curvature.importance)).mT.contiguous()  # [P, d, R]
    prices = curvature.per_part(curvature.importance) * step ** 2 / (2 * slope)
    plain = (target / (2 * step)).round()
    lengths = _lengths(plain.flatten(), torch.arange(plain.numel()) % 2 == 1)
    for _ in range(PASSES):
        integers, odd = _settled(target, step, prices, curvature, prior, lengths)
        lengths = _lengths(integers.flatten(), odd.flatten())
    values = values_of(integers, odd) * step
    def back(parts: Tensor) -> Tensor:
        return curvature.rows(parts.mT, weight.shape)
    return TrellisRounded(back(values), back(integers), back(odd))


def _settled(
        target: Tensor, step: float, prices: Tensor, curvature: Curvature, prior: float, lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    parts, columns, rows = target.shape
    if curvature.matrix is None:
        variances, mixing, shrunk = torch.ones(parts, columns), torch.eye(columns).expand(parts, -1, -1), target
        prior = 0.
    else:
        factor = curvature.factor(prior)
        shrunk, variances, mixing = _shrunk(target, factor, prior), factor.variances, factor.mixing
    own = prices * prior
    integers, grids = torch.empty_like(target), torch.empty_like(target, dtype=torch.bool)
    errors = torch.empty_like(target)
    total = torch.full((STATES, parts, rows), torch.inf)
    total[0] = 0.
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        rest = shrunk[:, start:stop] - mixing[:, start:stop, :start] @ errors[:, :start]
        # What each survivor has chosen in this block.
        chosen = torch.zeros(STATES, parts, stop - start, rows)
        failed = torch.zeros(STATES, parts, stop - start, rows)
        grid = torch.zeros(STATES, parts, stop - start, rows, dtype=torch.bool)
        for column in range(start, stop):
            at = column - start
            made_up = (mixing[:, column, start:column, None] * failed[:, :, :at]).sum(2)
            exact = (rest[:, at] - made_up) / step  # [S, P, R]
            reached = torch.full((STATES, 2, parts, rows), torch.inf)  # by state and parity of the integer
            options = torch.zeros(STATES, 2, parts, rows)
            for state in range(STATES):
                odd = state > 1
                half = exact[state] / 2
                down = ((exact[state] + exact[state].sign()) / 2 if odd else half).round()
                other = down + torch.where((exact[state] - values_of(down, torch.tensor(odd))) > 0, 1., -1.)
                for candidate in (down, other, down - down.sign(), torch.zeros_like(down)):
                    value = values_of(candidate, torch.tensor(odd))
                    cost = (total[state] + (exact[state] - value).square() * prices * variances[:, column, None]
                            - value.square() * own
                            + lengths[int(odd)].take(candidate.clamp(-TABLE, TABLE).long() + TABLE))
                    parity = candidate.remainder(2).long()
                    for p in (0, 1):
                        better = (parity == p) & (cost < reached[state, p])
                        reached[state, p] = torch.where(better, cost, reached[state, p])
                        options[state, p] = torch.where(better, candidate, options[state, p])
            before = torch.empty(STATES, parts, rows, dtype=torch.long)
            picked, new_total = torch.empty(STATES, parts, rows), torch.empty(STATES, parts, rows)
            for state in range(STATES):
                ways = [(s, p) for s in range(STATES) for p in (0, 1) if NEXT[s, p] == state]
                costs = torch.stack([reached[s, p] for s, p in ways])
                best = costs.argmin(0)
                new_total[state] = costs.gather(0, best[None])[0]
                picked[state] = torch.stack([options[s, p] for s, p in ways]).gather(0, best[None])[0]
                before[state] = torch.tensor([s for s, _ in ways])[best]
            total = new_total
            index = before[:, :, None].expand(-1, -1, at, -1)
            for kept in (chosen, failed, grid):
                kept[:, :, :at] = kept[:, :, :at].gather(0, index)
            odd_now = before > 1
            chosen[:, :, at], grid[:, :, at] = picked, odd_now
            failed[:, :, at] = values_of(picked, odd_now) * step - shrunk[None, :, column]
        # The best survivor of each row stays alone: errors of a block go to all columns that follow.
        best = total.argmin(0)
        index = best[None, :, None].expand(-1, -1, stop - start, -1)
        integers[:, start:stop], errors[:, start:stop] = chosen.gather(0, index)[0], failed.gather(0, index)[0]
        grids[:, start:stop] = grid.gather(0, index)[0]
        total = torch.where(torch.arange(STATES)[:, None, None] == best, 0., torch.inf)
    return integers, grids
