"""The divergence that errors of the weights are expected to cause: a second-order loss that needs no image once the
statistics are there."""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.losses.curvature import Curvature, curvatures
from timm_sbs.training.losses.statistics import LayerStatistics
from timm_sbs.training.losses.weight_uses import Use

__all__ = ['ExpectedDivergence']


class _Form:
    """The quadratic form of one weight. Its error is seen as [G, O / G, B, d], as in :class:`LayerStatistics`."""

    def __init__(self, target: Tensor, curvature: Curvature) -> None:
        self.target = target.flatten(1)  # [O, G inputs]
        self.moment: Tensor | None = None  # [G, B, d, d]; None: the identity
        if curvature.moment is not None:
            self.moment = curvature.damped().to(target).view_as(curvature.moment)
        self.importance = curvature.importance.to(target)[:, None]  # [O, 1]

    def __call__(self, rows: Tensor, filters: Tensor | None) -> tuple[Tensor, Tensor]:
        target, importance = self.target, self.importance
        if filters is not None:
            target, importance = target[filters], importance[filters]
        error = rows.detach().flatten(1).float() - target
        moved = error if self.moment is None else self._moved(self.moment, error, filters)
        gradient = importance * moved
        return (error * gradient).sum() / 2, gradient.view_as(rows)

    def _moved(self, moment: Tensor, error: Tensor, filters: Tensor | None) -> Tensor:
        """Each row's error times the second moments of its inputs."""
        groups, blocks, size, _ = moment.shape
        if groups == 1:
            parts = error.view(len(error), blocks, size).transpose(0, 1)
            return torch.bmm(parts, moment[0]).transpose(0, 1).reshape(error.shape)
        if filters is None:
            parts = error.view(groups, -1, blocks, size).transpose(1, 2)
            return torch.matmul(parts, moment).transpose(1, 2).reshape(error.shape)
        group = filters // (len(self.target) // groups)
        return torch.einsum('rbd,rbde->rbe', error.view(len(error), blocks, size), moment[group]).flatten(1)


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
        targets = {spec.name: weights[spec.name].detach().float().to(device) for spec in specs}
        self._forms = {name: _Form(targets[name], curvature)
                       for name, curvature in curvatures(targets, statistics, damping).items()}

    @property
    def without_statistics(self) -> list[str]:
        """Weights that count by their relative squared error."""
        return [name for name, form in self._forms.items() if form.moment is None]

    def __call__(self, name: str, rows: Tensor, filters: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Part of a weight, or some of its filters, in the loss.

        Args:
            name: Of the weight.
            rows: The weight, or those of its filters that ``filters`` are indices of: [F, ...].
            filters: On the device; None: all.

        Returns:
            The loss, a scalar, and its derivative by ``rows``.
        """
        return self._forms[name](rows, filters)

    def total(self, weights: Mapping[str, Tensor]) -> float:
        """The loss of all generated weights."""
        return float(sum(self(name, weights[name].to(form.target.device))[0] for name, form in self._forms.items()))

    def of_changes(self, weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
        """The loss of changes from some weights to others, whatever the original ones are."""
        return self.total({name: form.target.view_as(weights[name]) + (others[name] - weights[name]).to(form.target)
                           for name, form in self._forms.items()})

    @torch.no_grad()
    def corrections(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What must be added to entries of the state dict for the outputs of layers with ``weights`` to have the means
        that they have with the original weights: [O] each."""
        found: dict[str, Tensor] = {}
        for name, mean in self._means.items():
            use = self._uses[name]
            if use.corrector is None:
                continue
            target = self._forms[name].target
            error = (weights[name].detach().to(target).flatten(1) - target).view(use.groups, -1, mean[0].numel())
            found[use.corrector] = use.sign * torch.bmm(error, mean.flatten(1)[..., None]).flatten()
        return found
