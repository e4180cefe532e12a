"""The divergence that errors of the weights are expected to cause: a second-order loss that needs no image once the
statistics are there."""
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from timm_sbs.common.errors import SbsError
from timm_sbs.common.tensors import as_float64
from timm_sbs.training.losses.statistics import LayerStatistics
from timm_sbs.training.losses.weight_uses import Use

__all__ = ['Curvature', 'ExpectedDivergence', 'Factor', 'curvatures']

USELESS = 1e-6  # of the usual cost of an error: it comes from rounding errors of the gradients
MOST_DAMPINGS = 32  # each four times the last: more than any finite matrix needs


@dataclass(frozen=True, eq=False)
class Factor:
    """A curvature as squares, one for each input in turn: e^T (S + prior) e = sum_j variances_j (mixing @ e)_j^2.

    Shapes: P parts, one for each block of each group's inputs; d inputs of a part
        variances [P, d]: what an error at an input costs once those before it are settled, and those after it make up
            for it
        mixing [P, d, d]: unit lower triangular: how much is made up for at an input of the errors at those before it
        upper [P, d, d]: S + prior = upper @ upper^T, float64
    """
    variances: Tensor
    mixing: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Curvature:
    """How the divergence curves with one weight: errors e of its rows cost importance * e^T S e / 2. Those that make a
    row longer or shorter cost ``coupling`` times as much, which rounding alone takes into account.

    Shapes: G groups, B blocks of each group's inputs, d inputs of a block, O outputs; P = G * B parts
        importance [O]: damped
        moment [G, B, d, d]: S, not damped; None: the identity, for a weight without statistics
        damping: Part of the diagonal's mean that is added to it
    """
    importance: Tensor
    moment: Tensor | None = None
    damping: float = 0.
    coupling: float = 1.

    @property
    def _split(self) -> tuple[int, int]:
        """Groups and blocks."""
        return (1, 1) if self.moment is None else (self.moment.shape[0], self.moment.shape[1])

    def parts(self, rows: Tensor) -> Tensor:
        """A weight, or errors of one, part by part: [O, ...] -> [P, O / G, d]."""
        groups, blocks = self._split
        return rows.reshape(groups, len(rows) // groups, blocks, -1).transpose(1, 2).flatten(0, 1)

    def rows(self, parts: Tensor, shape: torch.Size) -> Tensor:
        """Inverse of :meth:`parts`."""
        return parts.unflatten(0, self._split).transpose(1, 2).reshape(shape)

    def per_part(self, values: Tensor) -> Tensor:
        """A number for each output, for each row of :meth:`parts`: [O] -> [P, O / G]."""
        groups, blocks = self._split
        return values.view(groups, 1, -1).expand(-1, blocks, -1).flatten(0, 1)

    def _damped(self, prior: float = 0.) -> Tensor:
        """S with its damping and a prior on the diagonal: [P, d, d], float64."""
        assert self.moment is not None
        moment = as_float64(self.moment).flatten(0, 1).clone()
        diagonal = moment.diagonal(dim1=-2, dim2=-1)
        diagonal += self.damping * diagonal.mean(-1, keepdim=True) + 1e-12 + prior
        return moment

    @cached_property
    def matrix(self) -> Tensor | None:
        """S, damped, float32: [P, d, d]."""
        return None if self.moment is None else self._damped().to(self.importance)

    def factor(self, prior: float = 0.) -> Factor:
        """Factors of S + prior. A matrix that rounding has left without full rank gets more damping by itself."""
        matrix = self._damped(prior)
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
        mixing = (upper / roots[:, None]).float().mT.contiguous()
        return Factor(roots.square().float().to(device), mixing.to(device), upper)

    @cached_property
    def variance(self) -> float:
        """Mean of ``variances`` without a prior: rounding with a small step costs importance * variance * step^2 / 24
        for each value, if values that follow make up for the errors."""
        return 1. if self.moment is None else float(self.factor().variances.mean())

    def loss_and_gradient(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Cost of errors [O, ...] of a weight, nats, and its derivative by them."""
        parts = self.parts(errors)
        moved = parts if self.matrix is None else torch.bmm(parts, self.matrix)
        gradient = self.per_part(self.importance)[..., None] * moved
        return (parts * gradient).sum() / 2, self.rows(gradient, errors.shape)

    def loss(self, errors: Tensor) -> float:
        """Cost of errors [O, ...] of a weight, nats."""
        return float(self.loss_and_gradient(errors.detach().to(self.importance))[0])


def curvatures(
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, LayerStatistics],
        damping: float,
) -> dict[str, Curvature]:
    """Curvatures of original weights by name.

    Where no image has shown that a layer matters, since nothing passes it or predictions are certain, its activations
    alone count, as much as those of the others for their size. Weights without statistics count by their relative
    squared error, as much as the others do for their size.

    ``damping`` is the part of the mean that is added to diagonals, for the statistics are those of a few images.
    """
    found = {name: Curvature(layer.importance + damping * layer.importance.mean(), layer.second_moment, damping,
                             max(1., float(layer.coupling))) for name, layer in statistics.items()}
    costs = {name: curvature.loss(weights[name]) / weights[name].numel() for name, curvature in found.items()}
    usual = sum(costs.values()) / max(1, len(costs)) or 1.  # of forgetting a value, the mean
    for name, curvature in found.items():
        if costs[name] < USELESS * usual:
            equal = dataclasses.replace(curvature, importance=torch.ones_like(curvature.importance), coupling=1.)
            alone = equal.loss(weights[name]) / weights[name].numel()
            if alone > 0 or not curvature.importance.any():
                found[name] = dataclasses.replace(
                    equal, importance=equal.importance * (usual / alone if alone > 0 else 1.))
    lost = sum(curvature.loss(weights[name]) for name, curvature in found.items())
    each = 2 * lost / sum(weights[name].numel() for name in found) if found else 1.  # by forgetting one value
    for name, weight in weights.items():
        if name not in found:
            square = weight.detach().float().square().mean() + 1e-30
            found[name] = Curvature((each / square).expand(len(weight)))
    return {name: found[name] for name in weights}


class ExpectedDivergence:
    """How far predictions are expected to diverge, to second order in the errors D = W' - W of all layers: nats.

        L = sum over layers of trace(diag(g) D S D^T) / 2

    S is the second moment of a layer's inputs and g the Fisher information of its outputs: the Kullback-Leibler
    divergence, expanded with K-FAC's Kronecker factors (Martens and Grosse, arXiv 1503.05671), of whose second one the
    diagonal is taken; the whole factor was measured to gain nothing. Where a bias or a BatchNorm can take up a constant
    error of the outputs (:meth:`corrections`), S is the covariance of the inputs, without their mean.

    Args:
        weights: Original weights by name: those that are generated or rounded, and no others.
        statistics: On the device of the run.
        damping: As for :func:`curvatures`.

    Attributes:
        curvatures: Of each weight.
    """

    def __init__(
            self,
            weights: Mapping[str, Tensor],
            uses: Mapping[str, Use],
            statistics: Mapping[str, LayerStatistics],
            damping: float,
    ) -> None:
        self._uses = uses
        self._means = {name: layer.mean for name, layer in statistics.items()}
        device = next(iter(statistics.values())).mean.device
        self._targets = {name: weight.detach().float().to(device) for name, weight in weights.items()}
        self.curvatures = curvatures(self._targets, statistics, damping)

    @property
    def without_statistics(self) -> list[str]:
        """Weights that count by their relative squared error."""
        return [name for name, curvature in self.curvatures.items() if curvature.moment is None]

    def __call__(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What a weight adds to the loss, a scalar, and its derivative by the weight."""
        return self.curvatures[name].loss_and_gradient(weight.detach().float() - self._targets[name])

    def total(self, weights: Mapping[str, Tensor]) -> float:
        """The loss of all weights."""
        return self.of_changes(self._targets, weights)

    def of_changes(self, weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
        """The loss of changes from some weights to others, whatever the original ones are."""
        return sum(curvature.loss(others[name].to(curvature.importance) - weights[name].to(curvature.importance))
                   for name, curvature in self.curvatures.items())

    @torch.no_grad()
    def corrections(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What must be added to entries of the state dict for the outputs of layers with ``weights`` to have the means
        that they have with the original weights: [O] each."""
        found: dict[str, Tensor] = {}
        for name, mean in self._means.items():
            use, target = self._uses[name], self._targets[name]
            if use.corrector is not None:
                error = (weights[name].detach().to(target) - target).view(use.groups, -1, mean[0].numel())
                found[use.corrector] = use.sign * torch.bmm(error, mean.flatten(1)[..., None]).flatten()
        return found
