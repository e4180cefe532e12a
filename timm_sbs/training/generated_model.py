"""A base model whose convolution weights are generated anew in each step, and trained through their generator."""
import copy
import dataclasses
from typing import Dict, Iterator, List, Optional, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.artifact import as_stored
from timm_sbs.base_model import kept_names, named_state
from timm_sbs.config import QuantizationConfig
from timm_sbs.generate import GenerationPlan, generate_weights, split_weights
from timm_sbs.predictor import Predictor
from timm_sbs.quantization import rounded_kept, rounded_predictor
from timm_sbs.targets import to_kernels
from timm_sbs.training.features import KernelFeatures, kernel_features
from timm_sbs.training.kept import kept_parameters, set_statistics_mode
from timm_sbs.training.settings import KEPT_PARTS
from timm_sbs.training.sharing import average, gather_shares, share, sum_gradients

__all__ = ['GeneratedModel']

BLOCK = 8192  # places whose activations are in memory at once


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _blocks(rows: slice) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, rows.stop)) for start in range(rows.start, rows.stop, BLOCK))


class GeneratedModel(nn.Module):
    """Predictor and base model as one trainable module.

    A step has two stages. :meth:`generate` makes all weights with a few matrix products, without autograd;
    :meth:`forward` runs the base model with them, on as many batches as one likes, and their gradients add up in
    them; :meth:`backward` takes these to the predictor. Generation is thus paid once a step, its memory is that of one
    block of kernels (activations are computed again, which is faster than to keep them all), and several processes
    share it out.

    With a quantization, both stages use the predictor as its artifact will round it, and so does the base model with
    its kept tensors; gradients go to the numbers before rounding (straight-through estimation).

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
        super().__init__()
        self.predictor = predictor.requires_grad_(True)
        self.model = model.requires_grad_(False)
        self.plan = plan
        self.train_kept = tuple(train_kept)
        self.quantization = quantization
        self._features: Optional[List[KernelFeatures]] = None  # made on the device of the first step
        for parameter in kept_parameters(model, plan.config.generated, train_kept).values():
            parameter.requires_grad_(True)
        for index, group in enumerate(plan.groups):
            self.register_buffer(f'place_of_kernel_{index}', group.place_of_kernel, persistent=False)

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

    def _kernel_features(self, accelerator: Accelerator) -> List[KernelFeatures]:
        if self._features is None:
            self._features = kernel_features(self.plan, accelerator.device)
        return self._features

    def _predictor_parameters(self) -> Dict[str, Tensor]:
        """Parameters that kernels are generated with."""
        parameters = dict(self.predictor.named_parameters())
        return rounded_predictor(parameters, self.quantization) if self.quantization else parameters

    @torch.no_grad()
    def generate(self, accelerator: Accelerator) -> Dict[str, Tensor]:
        """All generated weights by name, as leaves that collect gradients."""
        weights: Dict[str, Tensor] = {}
        parameters, features = self._predictor_parameters(), self._kernel_features(accelerator)
        for index, group in enumerate(self.plan.groups):
            blocks = []
            for rows in _blocks(share(group.num_places, accelerator)):
                with accelerator.autocast():
                    blocks.append(functional_call(
                        self.predictor, parameters, (features[index](rows), group.output_size)).float())
            kernels = gather_shares(torch.cat(blocks), group.num_places, accelerator)
            weights.update(split_weights(kernels, group.specs, getattr(self, f'place_of_kernel_{index}')))
        return {name: weight.requires_grad_() for name, weight in weights.items()}

    def forward(self, images: Tensor, weights: Dict[str, Tensor]) -> Tensor:
        """Logits [B, classes] of the base model with these weights."""
        kept = {}
        if self.quantization:
            kept = {
                name: rounded_kept(name, parameter, self.quantization)
                for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return functional_call(self.model, {**weights, **kept}, (images,))

    def backward(self, weights: Dict[str, Tensor], accelerator: Accelerator) -> None:
        """Second stage: from the gradients of the generated weights to those of the predictor.

        Afterwards every process holds the same gradients: the mean over the processes' batches.
        """
        parameters, features = self._predictor_parameters(), self._kernel_features(accelerator)
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        for index, group in enumerate(self.plan.groups):
            gradients = [_gradient(weights[spec.name]) for spec in group.specs]
            gradient = group.in_place_order(torch.cat([to_kernels(g, spec) for g, spec in zip(gradients, group.specs)]))
            gradient = accelerator.reduce(gradient, reduction='mean')
            for rows in _blocks(share(group.num_places, accelerator)):
                with accelerator.autocast():
                    kernels = functional_call(
                        self.predictor, leaves, (features[index](rows), group.output_size)).float()
                kernels.backward(gradient[rows])
        used = [name for name, leaf in leaves.items() if leaf.grad is not None]
        torch.autograd.backward([parameters[name] for name in used], [leaves[name].grad for name in used])
        sum_gradients(self.predictor.parameters(), accelerator)
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
