"""A base model whose convolution weights are generated anew in each step, and trained through their generator."""
import copy
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.codec.quantization import rounded_kept, stored_kept, stored_predictor
from timm_sbs.common.config import StorageConfig
from timm_sbs.common.distributed import average, sum_gradients
from timm_sbs.predictor.base_model import kept_names, named_state
from timm_sbs.predictor.generator import Generator
from timm_sbs.training.options.settings import KEPT_PARTS
from timm_sbs.training.steps.kept import (
    followed_statistics,
    kept_parameters,
    set_statistics_mode,
)
from timm_sbs.training.steps.two_stage import TwoStageGenerator

__all__ = ['GeneratedModel']


class GeneratedModel(TwoStageGenerator):
    """Predictor and base model as one trainable module.

    Between the two stages of a step, :meth:`forward` runs the base model with the generated weights, on as many batches
    as one likes. With a quantization its kept tensors are rounded too.

    The base model's own copies of generated weights get no gradient; they are what :meth:`materialize` writes to.
    """

    def __init__(
            self,
            generator: Generator,
            model: nn.Module,
            storage: StorageConfig = StorageConfig(),
            train_kept: Sequence[str] = KEPT_PARTS,
    ) -> None:
        """
        Args:
            generator: Trained in place.
            model: The base model, with its kept tensors. Its parameters' ``requires_grad`` is set.
            storage: How everything will be stored. With a quantization, training rounds it in each step.
            train_kept: Parts of the kept tensors that are trained too, of ``KEPT_PARTS``.
        """
        super().__init__(generator, storage.quantization)
        self.dtype = storage.dtype
        self.model = model.requires_grad_(False)
        self.train_kept = tuple(train_kept)
        for parameter in kept_parameters(model, generator.names, train_kept).values():
            parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> 'GeneratedModel':
        """As in torch, but statistics that are not to be trained stay as they are, and are used."""
        super().train(mode)
        if mode and 'statistics' not in self.train_kept:
            set_statistics_mode(self.model, training=False)
        return self

    @property
    def storage(self) -> StorageConfig:
        """How predictor and kept tensors will be stored. ``quantization`` may change while it is trained."""
        return StorageConfig(self.dtype, self.quantization)

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the predictor, and kept parameters that are trained."""
        return [p for p in self.parameters() if p.requires_grad]

    def kept_state(self) -> dict[str, Tensor]:
        """Entries of the base model's state dict that an artifact stores beside the predictor."""
        state = named_state(self.model)
        return {name: state[name].detach() for name in kept_names(state, self.generator.names)}

    def forward(self, images: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Logits [B, classes] of the base model with these weights, and with kept tensors as they will be stored.

        Statistics that BatchNorm follows stay as they are: it reads those of the batch, and writes these.
        """
        kept: dict[str, Tensor] = {}
        if self.quantization:
            state, followed = named_state(self.model), followed_statistics(self.model)
            kept = {
                name: rounded_kept(name, state[name], self.quantization)
                for name in kept_names(state, self.generator.names) if name not in followed}
        return functional_call(self.model, {**weights, **kept}, (images,))

    def backward(self, weights: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Second stage, also for the kept tensors that are trained."""
        super().backward(weights, accelerator)
        kept = [p for p in self.model.parameters() if p.requires_grad]
        sum_gradients(kept, accelerator, scale=1 / accelerator.num_processes)

    @torch.no_grad()
    def synchronize(self, accelerator: Accelerator) -> None:
        """Make BatchNorm statistics, which follow each process's own images, the same everywhere."""
        average((buffer for buffer in self.model.buffers() if buffer.is_floating_point()), accelerator)

    @torch.no_grad()
    def materialize(self) -> nn.Module:
        """Generate all weights and return the network that users of the artifact get.

        Predictor and kept tensors are rounded as the artifact stores them, so that what is measured is what is shipped.
        Without a quantization this is the base model itself, with one it is a copy.
        """
        stored = stored_predictor(self.predictor, self.storage)
        model = self.model
        if self.quantization:
            model = copy.deepcopy(model)
            model.load_state_dict(stored_kept(self.kept_state(), self.storage), strict=False)
        for name, weight in self.generator.with_predictor(stored)().items():
            model.get_parameter(name).copy_(weight)
        return model
