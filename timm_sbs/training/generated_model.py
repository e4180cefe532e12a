"""A base model whose convolution weights are generated anew in each step, and trained through their generator."""
import copy
import dataclasses
from typing import Dict, List, Optional, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.artifact import as_stored
from timm_sbs.base_model import kept_names, named_state
from timm_sbs.config import QuantizationConfig
from timm_sbs.generate import GenerationPlan, generate_weights
from timm_sbs.predictor import Predictor
from timm_sbs.quantization import rounded_kept
from timm_sbs.training.kept import kept_parameters, set_statistics_mode
from timm_sbs.training.settings import KEPT_PARTS
from timm_sbs.training.sharing import average, sum_gradients
from timm_sbs.training.weight_generator import WeightGenerator

__all__ = ['GeneratedModel']


class GeneratedModel(WeightGenerator):
    """Predictor and base model as one trainable module.

    Between the two stages of a step, :meth:`forward` runs the base model with the generated weights, on as many batches
    as one likes. With a quantization its kept tensors are rounded too.

    The base model's own copies of generated weights get no gradient; they are what :meth:`materialize` writes to.
    """

    def __init__(
            self,
            predictor: Predictor,
            plan: GenerationPlan,
            model: nn.Module,
            train_kept: Sequence[str] = KEPT_PARTS,
            quantization: Optional[QuantizationConfig] = None,
    ) -> None:
        """
        Args:
            predictor: Trained in place.
            plan: The generation.
            model: The base model, with its kept tensors. Its parameters' ``requires_grad`` is set.
            train_kept: Parts of the kept tensors that are trained too, of ``KEPT_PARTS``.
            quantization: How everything will be rounded, if training is to know of it.
        """
        super().__init__(predictor, plan, quantization)
        self.model = model.requires_grad_(False)
        self.train_kept = tuple(train_kept)
        for parameter in kept_parameters(model, plan.config.generated, train_kept).values():
            parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> 'GeneratedModel':
        """As in torch, but statistics that are not to be trained stay as they are, and are used."""
        super().train(mode)
        if mode and 'statistics' not in self.train_kept:
            set_statistics_mode(self.model, training=False)
        return self

    @property
    def trained_parameters(self) -> List[nn.Parameter]:
        """Parameters of the predictor, and kept parameters that are trained."""
        return [p for p in self.parameters() if p.requires_grad]

    def kept_state(self) -> Dict[str, Tensor]:
        """Entries of the base model's state dict that an artifact stores beside the predictor."""
        state = named_state(self.model)
        return {name: state[name].detach() for name in kept_names(state, self.plan.config.generated)}

    def forward(self, images: Tensor, weights: Dict[str, Tensor]) -> Tensor:
        """Logits [B, classes] of the base model with these weights."""
        kept = {}
        if self.quantization:
            kept = {
                name: rounded_kept(name, parameter, self.quantization)
                for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return functional_call(self.model, {**weights, **kept}, (images,))

    def backward(self, weights: Dict[str, Tensor], accelerator: Accelerator) -> None:
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
        stored = as_stored(self.predictor, dataclasses.replace(self.plan.config, quantization=self.quantization))
        model = self.model
        if self.quantization:
            model = copy.deepcopy(model)
            model.load_state_dict({
                name: rounded_kept(name, tensor, self.quantization) for name, tensor in self.kept_state().items()},
                strict=False)
        for name, weight in generate_weights(stored, self.plan).items():
            model.get_parameter(name).copy_(weight)
        return model
