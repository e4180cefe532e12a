"""A trained quantizer, for accuracy_over_bytes.py: the original's own weights, rounded by channel, distilled like ours.

It takes the place of the generated model in our distillation, so that images, losses, optimizer and rounding of all
kept tensors are the same. Weights are rounded by output channel and entropy-coded, as the rows of a predictor are.
"""
import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from timm_sbs.codec.entropy import encode_integers
from timm_sbs.codec.kept import dequantize_kept, quantize_kept, stored_kept
from timm_sbs.codec.quantization import quantize_predictor, rounded_predictor
from timm_sbs.common.config import QuantizationConfig, StorageConfig
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.steps.kept import set_statistics_mode

__all__ = ['RoundedModel']


class RoundedModel(nn.Module):
    """A network whose convolutions are rounded to ``bits`` by output channel, with straight-through gradients."""

    def __init__(
            self,
            original: nn.Module,
            generated: list[str],
            bits: float,
            kept_bits: int,
            train_statistics: bool = True,
    ) -> None:
        """
        Args:
            original: Copied.
            generated: Names of the weights that are rounded to ``bits``: those that ours generates.
            bits: Of these weights, as those of a predictor's rows.
            kept_bits: Of all other tensors.
            train_statistics: Whether those of BatchNorm follow the training images.
        """
        super().__init__()
        self.model = copy.deepcopy(original).requires_grad_(True)
        self.generated = generated
        self.train_statistics = train_statistics
        self.quantization = QuantizationConfig((bits,) * len(generated), kept_bits=kept_bits)

    def train(self, mode: bool = True) -> 'RoundedModel':
        super().train(mode)
        if mode and not self.train_statistics:
            set_statistics_mode(self.model, training=False)
        return self

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def parameter_groups(self, settings: DistillationSettings) -> list[dict[str, Any]]:
        return [{'params': self.trained_parameters}]

    def _rows(self) -> dict[str, Tensor]:
        """The weights as those of a predictor's layers: [channels, values], with biases of zero."""
        state = {}
        for index, name in enumerate(self.generated):
            rows = self.model.get_parameter(name).flatten(1)
            state.update({f'layer.{index}.weight': rows, f'layer.{index}.bias': rows.new_zeros(1)})
        return state

    def _weights(self) -> dict[str, Tensor]:
        rounded = rounded_predictor(self._rows(), self.quantization)
        return {
            name: rounded[f'layer.{index}.weight'].view_as(self.model.get_parameter(name))
            for index, name in enumerate(self.generated)}

    @torch.no_grad()
    def generate(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Rounded weights, as leaves that collect gradients."""
        return {name: weight.clone().requires_grad_() for name, weight in self._weights().items()}

    def forward(self, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        kept = stored_kept(
            {name: parameter for name, parameter in self.model.named_parameters() if name not in weights},
            StorageConfig(quantization=self.quantization))
        return functional_call(self.model, {**weights, **kept}, (images,))

    def backward(self, weights: Mapping[str, Tensor], accelerator: Accelerator, progress: float = 1.) -> None:
        """Gradients of the rounded weights go to those before rounding."""
        for name, weight in weights.items():
            self.model.get_parameter(name).grad = weight.grad

    def synchronize(self, accelerator: Accelerator) -> None:
        """Nothing, for there is one process."""

    @torch.no_grad()
    def stored(self) -> tuple[dict[str, Tensor], int]:
        """The state dict that a reader would have, and its bytes, without any header."""
        state, weights = self.model.state_dict(), self._weights()
        integers = list(quantize_predictor(self._rows(), self.quantization).items())
        arrays = [part.values for name, part in integers if name.endswith('.weight')]
        steps = [part.codes for name, part in integers if name.endswith('.weight')]
        values: list[Tensor] = []
        state.update(weights)
        kept = {name: tensor for name, tensor in state.items() if name not in weights}
        for name, part in quantize_kept(kept, self.quantization).items():
            state[name] = dequantize_kept(part, self.quantization.kept_bits)
            steps.append(part.codes)
            values += [] if part.values is None else [part.values]
        pools = [torch.cat([part.flatten() for part in parts]) for parts in (values, steps)]
        return state, len(encode_integers([array.long().numpy() for array in [*arrays, *pools]]))
