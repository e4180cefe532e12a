"""The divergence that errors of the weights are expected to cause: a second-order loss that needs no image once the
statistics are there."""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.losses.curvature import curvatures
from timm_sbs.training.losses.statistics import LayerStatistics
from timm_sbs.training.losses.weight_uses import Use

__all__ = ['ExpectedDivergence']


class ExpectedDivergence:
    """How far predictions are expected to diverge, to second order in the errors D = W' - W of all layers: nats.

        L = sum over layers of trace(diag(g) D S D^T) / 2

    S is the second moment of a layer's inputs and g the Fisher information of its outputs: the Kullback-Leibler
    divergence, expanded with K-FAC's Kronecker factors (Martens and Grosse, arXiv 1503.05671), of whose second one the
    diagonal is taken; the whole factor was measured to gain nothing. Where a bias or a BatchNorm can take up a constant
    error of the outputs (:meth:`corrections`), S is the covariance of the inputs, without their mean.

    Weights without statistics count by their relative squared error, as much as the others do for their size.
    """

    def __init__(
            self,
            specs: Sequence[WeightSpec],
            weights: Mapping[str, Tensor],
            uses: Mapping[str, Use],
            statistics: Mapping[str, LayerStatistics],
            damping: float,
    ) -> None:
        """
        Args:
            specs: The generated weights.
            weights: Original weights by name.
            uses: What :func:`timm_sbs.training.losses.weight_uses.find_uses` returns.
            statistics: What :func:`timm_sbs.training.losses.statistics.collect_statistics` returns, on the device of
                the run.
            damping: Part of the mean that is added to the diagonals, for the statistics are those of a few images.
        """
        self._uses = uses
        self._means = {name: layer.mean for name, layer in statistics.items()}
        device = next(iter(statistics.values())).mean.device if statistics else torch.device('cpu')
        self._targets = {spec.name: weights[spec.name].detach().float().to(device) for spec in specs}
        self._curvatures = curvatures(self._targets, statistics, damping)

    @property
    def without_statistics(self) -> list[str]:
        """Weights that count by their relative squared error."""
        return [name for name, curvature in self._curvatures.items() if curvature.moment is None]

    def __call__(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What a weight adds to the loss, a scalar, and its derivative by the weight."""
        return self._curvatures[name].loss_and_gradient(weight.detach().float() - self._targets[name])

    def total(self, weights: Mapping[str, Tensor]) -> float:
        """The loss of all generated weights."""
        return float(sum(self(name, weights[name].to(target.device))[0] for name, target in self._targets.items()))

    def of_changes(self, weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
        """The loss of changes from some weights to others, whatever the original ones are."""
        return self.total({name: target + (others[name] - weights[name]).to(target)
                           for name, target in self._targets.items()})

    @torch.no_grad()
    def corrections(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What must be added to entries of the state dict for the outputs of layers with ``weights`` to have the means
        that they have with the original weights: [O] each."""
        found: dict[str, Tensor] = {}
        for name, mean in self._means.items():
            use = self._uses[name]
            if use.corrector is None:
                continue
            target = self._targets[name]
            error = (weights[name].detach().to(target) - target).view(use.groups, -1, mean[0].numel())
            found[use.corrector] = use.sign * torch.bmm(error, mean.flatten(1)[..., None]).flatten()
        return found
