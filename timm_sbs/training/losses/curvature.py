"""How the expected divergence curves with one weight, factorised so that values can be settled one after another."""
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from timm_sbs.common.errors import SbsError
from timm_sbs.common.tensors import as_float64
from timm_sbs.training.losses.statistics import LayerStatistics

USELESS = 1e-6  # of the usual cost of an error: it comes from rounding errors of the gradients
MOST_DAMPINGS = 32  # each four times the last: more than any finite matrix needs

__all__ = ['Curvature', 'Factor', 'curvatures']


@dataclass(frozen=True, eq=False)
class Factor:
    """A curvature as squares, one for each input in turn: e^T (S + prior) e = sum_j variances_j (e @ mixing)_j^2.

    Shapes: P parts, one for each block of each group's inputs; d inputs of a part
        variances [P, d]: what an error at an input costs once those before it are settled, and those after it make up
            for it
        mixing [P, d, d]: unit upper triangular: how much an input's error is made up for at those after it
        upper [P, d, d]: S + prior = upper @ upper^T, float64
    """
    variances: Tensor
    mixing: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Curvature:
    """Errors e of a weight's rows cost importance * e^T S e / 2, as in
    :class:`~timm_sbs.training.losses.divergence.ExpectedDivergence`.

    Shapes: G groups, B blocks of each group's inputs, d inputs of a block, O outputs
        importance [O]: damped
        moment [G, B, d, d]: not damped; None: the identity, for a weight without statistics
        damping: Part of the diagonal's mean that is added to it
    """
    importance: Tensor
    moment: Tensor | None = None
    damping: float = 0.

    def parts(self, rows: Tensor) -> Tensor:
        """A weight, or errors of one, part by part: [O, ...] -> [P, O / G, d]."""
        rows = rows.flatten(1)
        groups, blocks, size = (1, 1, rows.shape[1]) if self.moment is None else self.moment.shape[:3]
        return rows.reshape(groups, -1, blocks, size).transpose(1, 2).reshape(groups * blocks, -1, size)

    def rows(self, parts: Tensor, shape: torch.Size) -> Tensor:
        """Inverse of :meth:`parts`."""
        groups, blocks = (1, 1) if self.moment is None else self.moment.shape[:2]
        return parts.reshape(groups, blocks, -1, parts.shape[-1]).transpose(1, 2).reshape(shape)

    def per_part(self, values: Tensor) -> Tensor:
        """A number for each output, for each row of :meth:`parts`: [O] -> [P, O / G]."""
        groups, blocks = (1, 1) if self.moment is None else self.moment.shape[:2]
        return values.view(groups, 1, -1).expand(-1, blocks, -1).reshape(groups * blocks, -1)

    def damped(self, prior: float = 0.) -> Tensor:
        """S with its damping and a prior on the diagonal: [P, d, d], float64."""
        if self.moment is None:
            raise ValueError('A weight without statistics has no second moments.')
        moment = as_float64(self.moment).flatten(0, 1).clone()
        diagonal = moment.diagonal(dim1=-2, dim2=-1)
        diagonal += self.damping * diagonal.mean(-1, keepdim=True) + 1e-12 + prior
        return moment

    def factor(self, prior: float = 0.) -> Factor:
        """Factors of S + prior. A matrix that rounding has left without full rank gets more damping by itself."""
        matrix = self.damped(prior)
        more = 1e-6 * matrix.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp(min=1e-30)
        for _ in range(MOST_DAMPINGS):
            upper, failed = torch.linalg.cholesky_ex(matrix.flip(-1, -2))
            if not failed.any():
                break
            matrix = matrix + torch.diag_embed((more * (failed > 0)[:, None]).expand(matrix.shape[:2]))
            more = 4 * more
        else:
            raise SbsError('Second moments of the inputs of a layer are not finite. Are the images of the statistics '
                           'such as the model expects?')
        upper = upper.flip(-1, -2)
        roots = upper.diagonal(dim1=-2, dim2=-1)
        device = self.importance.device
        return Factor(roots.square().float().to(device), (upper / roots[:, None]).float().to(device), upper)

    @cached_property
    def variance(self) -> float:
        """Mean of ``variances`` without a prior: rounding with a small step costs importance * variance * step^2 / 24
        for each value, if values that follow make up for the errors."""
        return 1. if self.moment is None else float(self.factor().variances.mean())

    @cached_property
    def _moment(self) -> Tensor | None:
        """S, damped, in float32."""
        return None if self.moment is None else self.damped().to(self.importance)

    def loss_and_gradient(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Cost of errors [O, ...] of a weight, nats, and its derivative by them."""
        parts = self.parts(errors)
        moved = parts if self._moment is None else torch.bmm(parts, self._moment)
        gradient = self.per_part(self.importance)[..., None] * moved
        return (parts * gradient).sum() / 2, self.rows(gradient, errors.shape)

    def loss(self, errors: Tensor) -> float:
        """Cost of errors [O, ...] of a weight, nats."""
        return float(self.loss_and_gradient(errors.float())[0])


def _importances(
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, LayerStatistics],
        damping: float,
) -> dict[str, Tensor]:
    """Importance [O] of the outputs of each weight that there are statistics of, damped.

    Where no image has shown that a layer matters, since nothing passes it or predictions are certain, its activations
    alone count, as much as those of the others for their size.
    """
    found = {name: layer.importance + damping * layer.importance.mean() for name, layer in statistics.items()}

    def cost(name: str, importance: Tensor) -> float:
        """Of forgetting a value of the weight, the mean."""
        weight = weights[name].detach().to(importance)
        return Curvature(importance, statistics[name].second_moment, damping).loss(weight) / weight.numel()

    costs = {name: cost(name, importance) for name, importance in found.items()}
    usual = sum(costs.values()) / max(1, len(costs)) or 1.
    for name, importance in found.items():
        if costs[name] < USELESS * usual:
            alone = cost(name, torch.ones_like(importance))
            if alone > 0 or not importance.any():
                found[name] = torch.full_like(importance, usual / alone if alone > 0 else 1.)
    return found


def curvatures(
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, LayerStatistics],
        damping: float,
) -> dict[str, Curvature]:
    """Curvatures of weights by name. Weights without statistics count by their relative squared error, as much as the
    others do for their size.

    Args:
        weights: Original weights, also of layers without statistics.
        statistics: What :func:`~timm_sbs.training.losses.statistics.collect_statistics` returns.
        damping: Part of the mean that is added to diagonals, for the statistics are those of a few images.
    """
    found = {name: Curvature(importance, statistics[name].second_moment, damping)
             for name, importance in _importances(weights, statistics, damping).items()}
    lost = sum(curvature.loss(weights[name].detach().to(curvature.importance)) for name, curvature in found.items())
    each = 2 * lost / sum(weights[name].numel() for name in found) if found else 1.  # by forgetting one value
    for name, weight in weights.items():
        if name not in found:
            square = weight.detach().float().square().mean() + 1e-30
            found[name] = Curvature((each / square).expand(len(weight)))
    return {name: found[name] for name in weights}
