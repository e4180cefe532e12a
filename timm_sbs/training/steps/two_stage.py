"""All generated weights at once in training, in two stages that several processes share."""
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.codec.quantization import rounded_predictor
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.distributed import gather_shares, share, sum_gradients
from timm_sbs.predictor.generator import DEVICE_BLOCK, Generator, split_weights
from timm_sbs.predictor.network import Predictor
from timm_sbs.training.steps.features import KernelFeatures, kernel_features

__all__ = ['TwoStageGenerator']

BLOCK = 8192  # places whose activations are in memory at once, on a CPU


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _blocks(rows: slice, device: torch.device) -> Iterator[slice]:
    size = BLOCK if device.type == 'cpu' else DEVICE_BLOCK
    return (slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size))


class TwoStageGenerator(nn.Module):
    """A predictor in training, through all weights that it generates.

    A step has two stages. :meth:`generate` makes all weights with a few matrix products, without autograd, and their
    users collect gradients in them; :meth:`backward` computes the predictor's gradients from these. Generation is thus
    paid once a step, its memory is that of one block of kernels (activations are computed again, which is faster than
    to keep them all), and several processes share it out.

    With a quantization, both stages use the predictor as its artifact will round it; gradients go to the numbers before
    rounding (straight-through estimation).
    """

    def __init__(self, generator: Generator, quantization: QuantizationConfig | None = None) -> None:
        """
        Args:
            generator: Trained in place.
            quantization: How everything will be rounded, if training is to know of it.
        """
        super().__init__()
        generator.predictor.requires_grad_(True)
        self.generator = generator
        self.quantization = quantization
        self._features: list[KernelFeatures] | None = None  # made on the device of the first step
        for index, group in enumerate(generator.groups):
            self.register_buffer(f'place_of_kernel_{index}', group.place_of_kernel, persistent=False)

    @property
    def predictor(self) -> Predictor:
        return self.generator.predictor

    def kernel_features(self) -> list[KernelFeatures]:
        """Features of each token group, on the generator's device."""
        if self._features is None:
            self._features = kernel_features(self.generator)
        return self._features

    def _place_of_kernel(self, index: int) -> Tensor:
        """That of a token group, on the device of this module."""
        return self.get_buffer(f'place_of_kernel_{index}')

    def predictor_parameters(self) -> dict[str, Tensor]:
        """Parameters that kernels are generated with, rounded if need be. Differentiable."""
        parameters: dict[str, Tensor] = dict(self.predictor.named_parameters())
        return rounded_predictor(parameters, self.quantization) if self.quantization else parameters

    @torch.no_grad()
    def generate(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """All generated weights by name, as leaves that collect gradients."""
        weights: dict[str, Tensor] = {}
        parameters, features = self.predictor_parameters(), self.kernel_features()
        for index, group in enumerate(self.generator.groups):
            blocks = []
            for rows in _blocks(share(group.num_places, accelerator), accelerator.device):
                with accelerator.autocast():
                    blocks.append(functional_call(
                        self.predictor, parameters, (features[index](rows), group.output_size)).float())
            kernels = gather_shares(torch.cat(blocks), group.num_places, accelerator)
            weights.update(split_weights(kernels, group.specs, self._place_of_kernel(index)))
        return {name: weight.requires_grad_() for name, weight in weights.items()}

    def backward(self, weights: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Second stage: from the gradients of the generated weights to those of the predictor.

        Afterwards every process holds the same gradients: the mean over the processes' own.
        """
        parameters, features = self.predictor_parameters(), self.kernel_features()
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        for index, group in enumerate(self.generator.groups):
            gradient = group.in_place_order(
                {spec.name: _gradient(weights[spec.name]) for spec in group.specs}, self._place_of_kernel(index))
            gradient = accelerator.reduce(gradient, reduction='mean')
            for rows in _blocks(share(group.num_places, accelerator), accelerator.device):
                with accelerator.autocast():
                    kernels = functional_call(
                        self.predictor, leaves, (features[index](rows), group.output_size)).float()
                kernels.backward(gradient[rows])
        used = [name for name, leaf in leaves.items() if leaf.grad is not None]
        torch.autograd.backward([parameters[name] for name in used], [leaves[name].grad for name in used])
        sum_gradients(self.predictor.parameters(), accelerator)
