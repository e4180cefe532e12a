"""A base model whose weights are generated or rounded anew in each step, and trained through that."""
import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.codec.kept import stored_kept
from timm_sbs.codec.quantization import (
    leaning_to_exact,
    leaning_to_zero,
    step_sizes,
    stored_predictor,
    stored_rounded,
)
from timm_sbs.common.config import StorageConfig
from timm_sbs.common.distributed import average, sum_gradients
from timm_sbs.common.tensors import with_prefix, without_prefix
from timm_sbs.predictor.base_model import first_names, kept_names, named_state, norm_eps
from timm_sbs.predictor.generator import Generator
from timm_sbs.training.losses.rate import Rate
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.trainable.batch_norm import followed_statistics, set_statistics_mode
from timm_sbs.training.trainable.two_stage import TwoStageGenerator

__all__ = ['GeneratedModel']

ROUNDED_RATE = 8.  # first weight of the rate where all weights are rounded: near where it ends


class GeneratedModel(TwoStageGenerator):
    """Predictor, rounded weights and base model as one trainable module.

    Between the two stages of a step, :meth:`forward` runs the base model with the generated weights, on as many batches
    as one likes. With a quantization its rounded weights and kept tensors are rounded too.

    The base model's own copies of generated weights get no gradient; they are what :meth:`materialize` writes to. Its
    copies of rounded weights are what is trained.

    Attributes:
        rate: The bits of all integers whose steps are fixed, as a part of the loss; None where there are none.
    """

    def __init__(
            self,
            generator: Generator,
            model: nn.Module,
            storage: StorageConfig = StorageConfig(),
            rounded_weights: Mapping[str, Tensor] | None = None,
            steps: Mapping[str, Tensor] | None = None,
            follows_statistics: bool = True,
    ) -> None:
        """
        Args:
            generator: Trained in place.
            model: The base model, with its kept tensors and rounded weights. Its parameters' ``requires_grad`` is set.
            storage: How everything will be stored. With a quantization, training rounds it in each step.
            rounded_weights: As an artifact has them.
            steps: Codes of fixed steps, as an artifact has them.
            follows_statistics: Whether BatchNorm statistics follow the images in training.
        """
        super().__init__(generator, storage.quantization, steps)
        self.dtype = storage.dtype
        self.model, generated = model, set(generator.names)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in generated)
        self.follows_statistics = follows_statistics
        self._norm_eps = norm_eps(model)
        self._rounded: dict[str, nn.Parameter] = {}
        for name, tensor in (rounded_weights or {}).items():
            self._rounded[name] = model.get_parameter(name)
            exact = self._rounded[name].detach()
            self._rounded[name].data.copy_(
                leaning_to_exact(tensor.to(exact), exact, (steps or {}).get(f'rounded.{name}')))
        self._second_names = _names_in_other_modules(model)
        self.rate: Rate | None = None
        if storage.quantization and steps:
            integers = self._integer_parameters()
            self.rate = Rate(steps, {name: parameter.shape for name, parameter in integers.items()},
                             1. if generator.names else ROUNDED_RATE)

    def train(self, mode: bool = True) -> 'GeneratedModel':
        """As in torch, but statistics that are not to be trained stay as they are, and are used."""
        super().train(mode)
        if mode and not self.follows_statistics:
            set_statistics_mode(self.model, training=False)
        return self

    @property
    def storage(self) -> StorageConfig:
        """How predictor and kept tensors will be stored. ``quantization`` may change while it is trained."""
        return StorageConfig(self.dtype, self.quantization)

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

    def kept_state(self) -> dict[str, Tensor]:
        """Entries of the base model's state dict that an artifact stores beside predictor and rounded weights."""
        state = named_state(self.model)
        return {name: state[name].detach() for name in kept_names(state, (*self.generator.names, *self._rounded))}

    def rounded_state(self) -> dict[str, Tensor]:
        """Rounded weights, before rounding."""
        return {name: parameter.detach() for name, parameter in self._rounded.items()}

    def trained_state(self) -> dict[str, Tensor]:
        """Everything that training changes, for a checkpoint."""
        return {
            **with_prefix('predictor.', self.predictor.state_dict()), **with_prefix('rounded.', self.rounded_state()),
            **with_prefix('kept.', self.kept_state()),
            **(with_prefix('rate.', self.rate.state_dict()) if self.rate else {})}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`trained_state`."""
        self.predictor.load_state_dict(without_prefix('predictor.', state))
        self.model.load_state_dict(without_prefix('kept.', state), strict=False)
        for name, tensor in without_prefix('rounded.', state).items():
            self._rounded[name].copy_(tensor)
        if self.rate:
            self.rate.load_state_dict(without_prefix('rate.', state))

    def forward(self, images: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Logits [B, classes] of the base model with these weights, and with all others as they will be stored.

        Statistics that BatchNorm follows stay as they are: it reads those of the batch, and writes these.
        """
        given = {**weights, **self._rounded_weights()}
        if self.quantization:
            state, followed = named_state(self.model), followed_statistics(self.model)
            kept = {name: state[name] for name in kept_names(state, given) if name not in followed}
            given.update(stored_kept(kept, self.storage, self._norm_eps))
        given.update({name: given[first] for name, first in self._second_names.items() if first in given})
        return functional_call(self.model, given, (images,), tie_weights=False)

    def backward(self, weights: dict[str, Tensor], accelerator: Accelerator, progress: float = 1.) -> None:
        """Second stage, also for all that is trained beside the predictor, and the rate.

        Args:
            weights: What :meth:`generate` returned, with gradients.
            accelerator: Processes.
            progress: As for :class:`~timm_sbs.training.losses.rate.Rate`.
        """
        super().backward(weights, accelerator)
        others = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith('generator.')]
        sum_gradients(others, accelerator, scale=1 / accelerator.num_processes)
        if self.rate:
            scale = accelerator.scaler.get_scale() if accelerator.scaler else 1.
            self.rate.add_gradients(self._integer_parameters(), progress, scale)

    @torch.no_grad()
    def integer_bits(self) -> float:
        """Bits of all integers whose steps are fixed, by the rate's model."""
        return float(self.rate.bits(self._integer_parameters())) if self.rate else 0.

    @torch.no_grad()
    def lean_to_zero(self, exact: Mapping[str, Tensor], part: float) -> None:
        """Set what becomes integers to the nearest of these to ``exact``, what :meth:`integer_state` returned.

        Where that is up to 0.5 + ``part`` of a step away from one that is nearer to zero, it becomes that one.
        """
        steps = self.steps
        for name, parameter in self._integer_parameters().items():
            parameter.copy_(leaning_to_zero(exact[name], steps[name], part))

    def integer_state(self) -> dict[str, Tensor]:
        """What becomes integers of fixed steps, before rounding."""
        return {name: parameter.detach() for name, parameter in self._integer_parameters().items()}

    @torch.no_grad()
    def synchronize(self, accelerator: Accelerator) -> None:
        """Make BatchNorm statistics, which follow each process's own images, the same everywhere."""
        average((buffer for buffer in self.model.buffers() if buffer.is_floating_point()), accelerator)

    @torch.no_grad()
    def materialize(self) -> nn.Module:
        """Generate all weights and return the network that users of the artifact get.

        Everything is rounded as the artifact stores it, so that what is measured is what is shipped. Without a
        quantization this is the base model itself, with one it is a copy.
        """
        stored = stored_predictor(self.predictor, self.storage, without_prefix('predictor.', self.steps))
        model = self.model
        if self.quantization:
            model = copy.deepcopy(model)
            model.load_state_dict(stored_kept(self.kept_state(), self.storage, self._norm_eps), strict=False)
        weights = {**self.generator.with_predictor(stored)(), **self._rounded_weights()}
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)
        return model

    def _rounded_weights(self) -> dict[str, Tensor]:
        """Rounded weights as they will be stored. Differentiable."""
        return stored_rounded(dict(self._rounded), without_prefix('rounded.', self.steps), self.storage)

    def _integer_parameters(self) -> dict[str, nn.Parameter]:
        """What becomes integers of fixed steps, by the names of these."""
        found = {f'predictor.{name}': parameter for name, parameter in self.predictor.named_parameters()}
        found.update({f'rounded.{name}': parameter for name, parameter in self._rounded.items()})
        return {name: found[name] for name in self._step_names}


def _names_in_other_modules(model: nn.Module) -> dict[str, str]:
    """Further names of tensors that several modules share, each with the first name.

    A module that itself has several names is left out: torch would replace its tensors under each of them, and
    afterwards put back what it had put there itself.
    """
    owners = {name: model.get_submodule(name.rpartition('.')[0]) for name in named_state(model)}
    return {name: first for name, first in first_names(named_state(model)).items() if owners[name] is not owners[first]}
