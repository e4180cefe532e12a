"""All generated weights at once in training, in two stages that several processes share."""
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.codec.quantization import rounded_predictor
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.distributed import gather_shares, share, sum_gradients
from timm_sbs.common.prefixes import without_prefix
from timm_sbs.predictor.generator import DEVICE_BLOCK, Generator, split_weights
from timm_sbs.predictor.network import Predictor
from timm_sbs.training.steps.features import KernelFeatures, kernel_features

__all__ = ['TwoStageGenerator']

BLOCK = 8192  # places whose activations are in memory at once, on a CPU
KEPT_BYTES = 2_000_000_000  # of activations that a GPU keeps between the stages, at most


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _block_size(device: torch.device) -> int:
    return BLOCK if device.type == 'cpu' else DEVICE_BLOCK


class TwoStageGenerator(nn.Module):
    """A predictor in training, through all weights that it generates.

    A step has two stages. :meth:`generate` makes all weights with a few matrix products, and their users collect
    gradients in them; :meth:`backward` computes the predictor's gradients from these. Generation is thus paid once a
    step, and several processes share it out.

    On a CPU the first stage keeps nothing, and the second computes the activations again, block by block in the
    processor's caches, which is faster than to keep them all. On a GPU, where the number of calls counts, they are kept
    if they are small; else it does as a CPU.

    With a quantization, both stages use the predictor as its artifact will round it; gradients go to the numbers before
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
            steps: Codes of fixed steps, by names as in :class:`~timm_sbs.artifact.artifact.Artifact`.
        """
        super().__init__()
        generator.predictor.requires_grad_(True)
        self.generator = generator
        self.quantization = quantization
        self._step_names = tuple(steps or {})
        for index, codes in enumerate((steps or {}).values()):
            self.register_buffer(f'step_codes_{index}', codes.clone(), persistent=False)
        self._features: list[KernelFeatures] | None = None  # made on the device of the first step
        self._parts: list[Tensor] = []  # this process's kernels of each group with their graph, if it is kept
        for index, group in enumerate(generator.groups):
            self.register_buffer(f'place_of_kernel_{index}', group.place_of_kernel, persistent=False)

    @property
    def predictor(self) -> Predictor:
        return self.generator.predictor

    @property
    def steps(self) -> dict[str, Tensor]:
        """Codes of fixed steps, on the device of this module."""
        return {name: self.get_buffer(f'step_codes_{index}') for index, name in enumerate(self._step_names)}

    def kernel_features(self) -> list[KernelFeatures]:
        """Features of each token group, on the generator's device."""
        if self._features is None:
            self._features = kernel_features(self.generator)
        return self._features

    def place_of_kernel(self, index: int) -> Tensor:
        """That of a token group, on the device of this module."""
        return self.get_buffer(f'place_of_kernel_{index}')

    def predictor_parameters(self) -> dict[str, Tensor]:
        """Parameters that kernels are generated with, rounded if need be. Differentiable."""
        parameters: dict[str, Tensor] = dict(self.predictor.named_parameters())
        if self.quantization is None:
            return parameters
        return rounded_predictor(parameters, self.quantization, without_prefix('predictor.', self.steps))

    def generate(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """All generated weights by name, as leaves that collect gradients."""
        weights: dict[str, Tensor] = {}
        keeps = torch.is_grad_enabled() and self._keeps_activations(accelerator)
        with torch.set_grad_enabled(keeps):
            parameters = self.predictor_parameters()
            parts = [self._kernels(index, parameters, accelerator) for index in range(len(self.generator.groups))]
        self._parts = parts if keeps else []
        for index, (group, part) in enumerate(zip(self.generator.groups, parts)):
            kernels = gather_shares(part.detach(), group.num_places, accelerator)
            weights.update(split_weights(kernels, group.specs, self.place_of_kernel(index), self.generator.scales))
        return {name: weight.requires_grad_() for name, weight in weights.items()}

    def backward(self, weights: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Second stage: from the gradients of the generated weights to those of the predictor.

        Afterwards every process holds the same gradients: the mean over the processes' own.
        """
        parts, self._parts = self._parts, []
        scales = self.generator.scales
        gradients = []
        for index, group in enumerate(self.generator.groups):
            gradient = group.in_place_order(
                {spec.name: _gradient(weights[spec.name]) * scales[spec.name] for spec in group.specs},
                self.place_of_kernel(index))
            gradient = accelerator.reduce(gradient, reduction='mean')
            gradients.append(gradient[share(group.num_places, accelerator)])
        if parts:
            mine = [(part, gradient) for part, gradient in zip(parts, gradients) if len(part)]
            torch.autograd.backward([part for part, _ in mine], [gradient for _, gradient in mine])
        else:
            self._backward_again(gradients, accelerator)
        sum_gradients(self.predictor.parameters(), accelerator)

    def _backward_again(self, gradients: list[Tensor], accelerator: Accelerator) -> None:
        """Compute the activations again, and the predictor's gradients from those of its outputs."""
        parameters = self.predictor_parameters()
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        for index, gradient in enumerate(gradients):
            for rows, part in zip(self._blocks(index, accelerator), gradient.split(_block_size(accelerator.device))):
                self._block(index, rows, leaves, accelerator).backward(part)
        used = [name for name, leaf in leaves.items() if leaf.grad is not None]
        torch.autograd.backward([parameters[name] for name in used], [leaves[name].grad for name in used])

    def _keeps_activations(self, accelerator: Accelerator) -> bool:
        if accelerator.device.type == 'cpu':
            return False
        places = sum(group.num_places for group in self.generator.groups)
        widths = sum(self.predictor.config.hidden_widths)
        # Before and after each activation function, in float32 at most.
        return 2 * places * widths * torch.float32.itemsize / accelerator.num_processes <= KEPT_BYTES

    def _kernels(self, index: int, parameters: Mapping[str, Tensor], accelerator: Accelerator) -> Tensor:
        """Those of this process's places of a token group."""
        blocks = [self._block(index, rows, parameters, accelerator) for rows in self._blocks(index, accelerator)]
        none = self.predictor.output_scale.new_empty(0, self.generator.groups[index].output_size)
        return torch.cat(blocks) if blocks else none  # a process may have no place of a small group

    def _block(
            self, index: int, rows: slice, parameters: Mapping[str, Tensor], accelerator: Accelerator) -> Tensor:
        features, group = self.kernel_features()[index](rows), self.generator.groups[index]
        with accelerator.autocast():
            return self.predictor(features, group.output_size, parameters).float()

    def _blocks(self, index: int, accelerator: Accelerator) -> list[slice]:
        """Of this process's places of a token group."""
        mine = share(self.generator.groups[index].num_places, accelerator)
        size = _block_size(accelerator.device)
        return [slice(start, min(start + size, mine.stop)) for start in range(mine.start, mine.stop, size)]
