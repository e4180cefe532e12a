"""All generated weights at once in training, in two stages; and features of their kernels."""
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.codec.quantization import rounded_predictor
from timm_sbs.common.distributed import sum_gradients
from timm_sbs.common.tensors import float64_device, without_prefix
from timm_sbs.predictor.generator import DEVICE_BLOCK, Generator, TokenGroup, split_weights
from timm_sbs.predictor.network import Predictor

__all__ = ['TwoStageGenerator', 'kernel_features']

BLOCK = 8192  # positions whose activations are in memory at once, on a CPU
KEPT_BYTES = 2_000_000_000  # of activations that a GPU keeps between the stages, at most
# Of a network's features: those of ResNet-56 take 48 MB, those of ResNet-50 would take 1.4 GB.
FEATURES_BYTES = 256_000_000


def kernel_features(generator: Generator) -> list[Callable[[slice | Tensor], Tensor]]:
    """For each token group, features [rows, F] of some of its positions: a slice, or indices on the generator's device.

    They are kept where all groups' together take at most 256 MB, else computed each time.
    """
    positions = sum(group.num_positions for group in generator.groups)
    kept = positions * generator.config.feature_width * torch.float32.itemsize <= FEATURES_BYTES

    def features_of(group: TokenGroup) -> Callable[[slice | Tensor], Tensor]:
        table = generator.features(group) if kept else group.coordinates.to(float64_device(generator.device))

        def features(rows: slice | Tensor) -> Tensor:
            found = table[rows if isinstance(rows, slice) else rows.to(table.device)]
            return found if kept else generator.encoded(found)

        return features

    return [features_of(group) for group in generator.groups]


class TwoStageGenerator(nn.Module):
    """A predictor in training, through all weights that it generates.

    A step has two stages. :meth:`generate` makes all weights with a few matrix products, and their users collect
    gradients in them; :meth:`backward` computes the predictor's gradients from these. Generation is thus paid once a
    step.

    On a CPU the activations are computed again in the second stage, block by block in the processor's caches, which is
    faster than to keep them all; so are those that would take more than 2 GB on a GPU.

    With a quantization, the predictor is used as its artifact will round it; gradients go to the numbers before
    rounding (straight-through estimation).

    The artifact's generator is trained in place, and moved to the device.
    """

    def __init__(self, artifact: Artifact, accelerator: Accelerator) -> None:
        super().__init__()
        self.accelerator, self.storage, device = accelerator, artifact.storage, accelerator.device
        self.generator = artifact.generator.to(device)
        self.predictor.requires_grad_(True)
        self.steps = {name: codes.to(device) for name, codes in artifact.steps.items()}
        self._positions = [group.position_of_kernel.to(device) for group in self.generator.groups]
        self._features = kernel_features(self.generator)
        self._kernels: list[Tensor] = []  # of each group, with their graph

    @property
    def predictor(self) -> Predictor:
        return self.generator.predictor

    def generate(self) -> dict[str, Tensor]:
        """All generated weights by name, as leaves that collect gradients."""
        groups, parameters = self.generator.groups, dict[str, Tensor](self.predictor.named_parameters())
        if self.storage.quantization:
            parameters = rounded_predictor(
                parameters, self.storage.quantization, without_prefix('predictor.', self.steps))
        on_cpu, positions = self.accelerator.device.type == 'cpu', sum(group.num_positions for group in groups)
        # Before and after each activation function, in float32 at most.
        size = 2 * positions * sum(self.predictor.config.hidden_widths) * torch.float32.itemsize
        block, keeps = (BLOCK, False) if on_cpu else (DEVICE_BLOCK, size <= KEPT_BYTES)

        def kernels_at(index: int, rows: slice) -> Tensor:
            with self.accelerator.autocast():
                return self.predictor(self._features[index](rows), groups[index].output_size, parameters).float()

        weights: dict[str, Tensor] = {}
        self._kernels = []
        for index, group in enumerate(groups):
            rows = [slice(start, start + block) for start in range(0, group.num_positions, block)]
            kernels = torch.cat([
                kernels_at(index, part) if keeps else checkpoint(
                    kernels_at, index, part, use_reentrant=False, preserve_rng_state=False) for part in rows])
            self._kernels.append(kernels)
            weights.update(split_weights(
                kernels.detach(), group.specs, self._positions[index], self.generator.scales))
        return {name: weight.requires_grad_() for name, weight in weights.items()}

    def backward(self, weights: dict[str, Tensor]) -> None:
        """Second stage: from the gradients of the generated weights to those of the predictor.

        Afterwards every process holds the same gradients: the mean over the processes' own.
        """
        scales = self.generator.scales
        gradients = [group.in_position_order(
            {spec.name: _gradient(weights[spec.name]) * scales[spec.name] for spec in group.specs},
            positions) for group, positions in zip(self.generator.groups, self._positions)]
        kernels, self._kernels = self._kernels, []
        torch.autograd.backward(kernels, gradients)
        sum_gradients(self.predictor.parameters(), self.accelerator, scale=1 / self.accelerator.num_processes)


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
