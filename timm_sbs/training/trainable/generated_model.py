"""A base model whose weights are generated or rounded anew in each step, and trained through that."""
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import leaning_to_exact, leaning_to_zero, step_sizes, stored_rounded
from timm_sbs.common.distributed import sum_gradients
from timm_sbs.common.tensors import without_prefix
from timm_sbs.predictor.base_model import batch_norms, first_names, kept_names, named_state, norm_eps
from timm_sbs.training.losses.rate import Rate
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.trainable.two_stage import TwoStageGenerator

__all__ = ['GeneratedModel']

ROUNDED_RATE = 8.  # first weight of the rate where all weights are rounded: near where it ends


class GeneratedModel(TwoStageGenerator):
    """Predictor, rounded weights and base model as one trainable module.

    Between the two stages of a step, :meth:`forward` runs the base model with the generated weights, on as many batches
    as one likes. With a quantization its rounded weights and kept tensors are rounded too.

    The base model's own copies of generated weights get no gradient. Its copies of rounded weights are what is trained.

    Args:
        artifact: Its generator is trained in place; its storage says how everything is rounded in each step.
        model: The base model, with the tensors that the artifact stores, and the exact rounded weights. Its parameters'
            ``requires_grad`` is set, and it is moved to the device.
        accelerator: Device, processes and precision.
        follows_statistics: Whether BatchNorm statistics follow the images in training.

    Attributes:
        rate: The bits of all integers whose steps are fixed, as a part of the loss; None where there are none.
    """

    def __init__(
            self, artifact: Artifact, model: nn.Module, accelerator: Accelerator, follows_statistics: bool = True,
    ) -> None:
        super().__init__(artifact, accelerator)
        self._origin = origin = artifact.origin
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in artifact.rounded or (
                name not in self.generator.names and self._stores(name)))
        self.model, self.follows_statistics = model.to(accelerator.device), follows_statistics
        self._norm_eps = norm_eps(model)
        self._rounded: dict[str, nn.Parameter] = {}
        self._base: dict[str, Tensor] = {}  # what an update's rounded weights are added to
        for name, tensor in artifact.rounded.items():
            self._rounded[name] = model.get_parameter(name)
            exact = self._rounded[name].detach()
            if origin and name in origin.state:
                self._base[name] = origin.state[name].to(exact)
                exact = exact - self._base[name]
            self._rounded[name].data.copy_(leaning_to_exact(tensor.to(exact), exact, self.steps.get(f'rounded.{name}')))
        self._second_names = _names_in_other_modules(model)
        self.rate: Rate | None = None
        if self.storage.quantization and self.steps:
            first_weight = 1. if self.generator.names else ROUNDED_RATE
            self.rate = Rate(self.steps, self.integers, first_weight).to(accelerator.device)

    def _stores(self, name: str) -> bool:
        """Whether a tensor that is neither generated nor rounded is stored, and so may change."""
        return self._origin is None or name in self._origin.stored

    def train(self, mode: bool = True) -> 'GeneratedModel':
        """As in torch, but statistics that are not to be trained stay as they are, and are used."""
        super().train(mode)
        for name, norm in batch_norms(self.model).items():
            norm.train(mode and self.follows_statistics and self._stores(f'{name}.running_mean'))
        return self

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the predictor, rounded weights, and kept parameters that are trained."""
        return [p for p in self.parameters() if p.requires_grad]

    def parameter_groups(self, settings: Distillation) -> list[dict[str, Any]]:
        """What an optimizer takes: all trained parameters, with 'lr_scale' where a learning rate is counted in steps of
        integers, as that of rounded weights is."""
        groups = [{'params': [parameter], 'lr_scale':
                   settings.rounding_lr / settings.lr * float(step_sizes(self.steps[f'rounded.{name}']))}
                  for name, parameter in self._rounded.items()]
        others = {id(parameter) for parameter in self._rounded.values()}
        rest = [parameter for parameter in self.trained_parameters if id(parameter) not in others]
        return [*([{'params': rest}] if rest else []), *groups]

    def rounded_state(self) -> dict[str, Tensor]:
        """Rounded weights, before rounding."""
        return {name: parameter.detach() for name, parameter in self._rounded.items()}

    def forward(self, images: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Logits [B, classes] of the base model with these weights, and with all others as they will be stored.

        Statistics that BatchNorm follows stay as they are: it reads those of the batch, and writes these.
        """
        rounded = stored_rounded(dict(self._rounded), without_prefix('rounded.', self.steps), self.storage)
        given = {**weights, **rounded}
        given.update({name: given[name] + value for name, value in self._base.items()})
        if self.storage.quantization:
            state = named_state(self.model)
            followed = {f'{prefix}.{name}' for prefix, norm in batch_norms(self.model).items() if norm.training
                        for name, _ in norm.named_buffers(recurse=False)}
            kept = {name: state[name] for name in kept_names(state, given)
                    if name not in followed and self._stores(name)}
            given.update(stored_kept(kept, self.storage, self._norm_eps))
        given.update({name: given[first] for name, first in self._second_names.items() if first in given})
        return functional_call(self.model, given, (images,), tie_weights=False)

    def backward(self, weights: dict[str, Tensor], progress: float = 1.) -> None:
        """Second stage, also for all that is trained beside the predictor, and the rate.

        Args:
            weights: What :meth:`generate` returned, with gradients.
            progress: As for :class:`~timm_sbs.training.losses.rate.Rate`.
        """
        super().backward(weights)
        accelerator = self.accelerator
        others = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith('generator.')]
        sum_gradients(others, accelerator, scale=1 / accelerator.num_processes)
        if self.rate:
            scale = accelerator.scaler.get_scale() if accelerator.scaler else 1.
            self.rate.add_gradients(self.integers, progress, scale)

    @property
    def integers(self) -> dict[str, nn.Parameter]:
        """What becomes integers of fixed steps, before rounding, by the names of these."""
        found = {f'predictor.{name}': parameter for name, parameter in self.predictor.named_parameters()}
        found.update({f'rounded.{name}': parameter for name, parameter in self._rounded.items()})
        return {name: found[name] for name in self.steps}

    @torch.no_grad()
    def lean_to_zero(self, exact: Mapping[str, Tensor], part: float) -> None:
        """Set :attr:`integers` to the nearest integers to ``exact``, their values before.

        Where that is up to 0.5 + ``part`` of a step away from one that is nearer to zero, it becomes that one.
        """
        for name, parameter in self.integers.items():
            parameter.copy_(leaning_to_zero(exact[name], self.steps[name], part))

    @torch.no_grad()
    def synchronize(self) -> None:
        """Make BatchNorm statistics, which follow each process's own images, the same everywhere."""
        if self.accelerator.num_processes > 1:
            for buffer in self.model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.accelerator.reduce(buffer, reduction='mean'))


def _names_in_other_modules(model: nn.Module) -> dict[str, str]:
    """Further names of tensors that several modules share, each with the first name.

    A module that itself has several names is left out: torch would replace its tensors under each of them, and
    afterwards put back what it had put there itself.
    """
    owners = {name: model.get_submodule(name.rpartition('.')[0]) for name in named_state(model)}
    return {name: first for name, first in first_names(named_state(model)).items() if owners[name] is not owners[first]}
