"""All generated weights at once in training, in two stages."""
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from timm_sbs.codec.quantization import rounded_predictor
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.distributed import sum_gradients
from timm_sbs.common.tensors import without_prefix
from timm_sbs.predictor.generator import DEVICE_BLOCK, Generator, split_weights
from timm_sbs.predictor.network import Predictor
from timm_sbs.training.trainable.features import KernelFeatures, kernel_features

__all__ = ['TwoStageGenerator']

BLOCK = 8192  # positions whose activations are in memory at once, on a CPU
KEPT_BYTES = 2_000_000_000  # of activations that a GPU keeps between the stages, at most


class TwoStageGenerator(nn.Module):
    """A predictor in training, through all weights that it generates.

    A step has two stages. :meth:`generate` makes all weights with a few matrix products, and their users collect
    gradients in them; :meth:`backward` computes the predictor's gradients from these. Generation is thus paid once a
    step.

    On a CPU the activations are computed again in the second stage, block by block in the processor's caches, which is
    faster than to keep them all; so are those that would take more than 2 GB on a GPU.

    With a quantization, the predictor is used as its artifact will round it; gradients go to the numbers before
    rounding (straight-through estimation).
    """

    def __init__(
            self,
            generator: Generator,
            quantization: QuantizationConfig | None = None,
            steps: Mapping[str, Tensor] | None = None,
    ) -> None:
        """
        Args:
            generator: Trained in place.
            quantization: How everything will be rounded, if training is to know of it.
            steps: Codes of fixed step sizes, by names as in :class:`~timm_sbs.artifact.artifact.Artifact`.
        """
        super().__init__()
        generator.predictor.requires_grad_(True)
        self.generator = generator
        self.quantization = quantization
        self._step_names = tuple(steps or {})
        for index, codes in enumerate((steps or {}).values()):
            self.register_buffer(f'step_codes_{index}', codes.clone(), persistent=False)
        for index, group in enumerate(generator.groups):
            self.register_buffer(f'position_of_kernel_{index}', group.position_of_kernel, persistent=False)
        self._features: list[KernelFeatures] | None = None  # made on the device of the first step
        self._kernels: list[Tensor] = []  # of each group, with their graph

    @property
    def predictor(self) -> Predictor:
        return self.generator.predictor

    @property
    def steps(self) -> dict[str, Tensor]:
        """Codes of fixed step sizes, on the device of this module."""
        return {name: self.get_buffer(f'step_codes_{index}') for index, name in enumerate(self._step_names)}

    def kernel_features(self) -> list[KernelFeatures]:
        """Features of each token group, on the generator's device."""
        if self._features is None:
            self._features = kernel_features(self.generator)
        return self._features

    def position_of_kernel(self, index: int) -> Tensor:
        """That of a token group, on the device of this module."""
        return self.get_buffer(f'position_of_kernel_{index}')

    def predictor_parameters(self) -> dict[str, Tensor]:
        """Parameters that kernels are generated with, rounded if need be. Differentiable."""
        parameters: dict[str, Tensor] = dict(self.predictor.named_parameters())
        if self.quantization is None:
            return parameters
        return rounded_predictor(parameters, self.quantization, without_prefix('predictor.', self.steps))

    def generate(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """All generated weights by name, as leaves that collect gradients."""
        groups, parameters, features = self.generator.groups, self.predictor_parameters(), self.kernel_features()
        on_cpu, positions = accelerator.device.type == 'cpu', sum(group.num_positions for group in groups)
        # Before and after each activation function, in float32 at most.
        size = 2 * positions * sum(self.predictor.config.hidden_widths) * torch.float32.itemsize
        block, keeps = (BLOCK, False) if on_cpu else (DEVICE_BLOCK, size <= KEPT_BYTES)

        def kernels_at(index: int, rows: slice) -> Tensor:
            with accelerator.autocast():
                return self.predictor(features[index](rows), groups[index].output_size, parameters).float()

        weights: dict[str, Tensor] = {}
        self._kernels = []
        for index, group in enumerate(groups):
            rows = [slice(start, start + block) for start in range(0, group.num_positions, block)]
            kernels = torch.cat([
                kernels_at(index, part) if keeps else checkpoint(
                    kernels_at, index, part, use_reentrant=False, preserve_rng_state=False) for part in rows])
            self._kernels.append(kernels)
            weights.update(split_weights(
                kernels.detach(), group.specs, self.position_of_kernel(index), self.generator.scales))
        return {name: weight.requires_grad_() for name, weight in weights.items()}

    def backward(self, weights: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Second stage: from the gradients of the generated weights to those of the predictor.

        Afterwards every process holds the same gradients: the mean over the processes' own.
        """
        scales = self.generator.scales
        gradients = [group.in_position_order(
            {spec.name: _gradient(weights[spec.name]) * scales[spec.name] for spec in group.specs},
            self.position_of_kernel(index)) for index, group in enumerate(self.generator.groups)]
        kernels, self._kernels = self._kernels, []
        torch.autograd.backward(kernels, gradients)
        sum_gradients(self.predictor.parameters(), accelerator, scale=1 / accelerator.num_processes)


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
