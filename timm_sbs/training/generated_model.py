"""A base model whose convolution weights are generated anew, with gradients, in each forward pass."""
from typing import Dict

import torch
from torch import Tensor, nn

from timm_sbs.artifact import as_stored
from timm_sbs.generate import GenerationPlan, TokenGroup, generate_weights, split_weights
from timm_sbs.predictor import Predictor

__all__ = ['GeneratedModel']


class GeneratedModel(nn.Module):
    """Predictor and base model as one trainable module: images -> logits, gradients to the predictor.

    All generated weights come from a few matrix products, once a forward pass. The base model's own copies of them
    get no gradient; they are what :meth:`materialize` writes to. Kept parameters (BatchNorm, stem, classifier) are
    trained with the predictor, for they are stored in any case.
    """

    def __init__(self, predictor: Predictor, plan: GenerationPlan, model: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor
        self.model = model
        self.plan = plan
        for index, group in enumerate(plan.groups):
            self.register_buffer(f'features_{index}', plan.features(group), persistent=False)
            self.register_buffer(f'place_of_kernel_{index}', group.place_of_kernel, persistent=False)
        for name in plan.config.generated:
            model.get_parameter(name).requires_grad_(False)

    def _weights(self, index: int, group: TokenGroup) -> Dict[str, Tensor]:
        features = getattr(self, f'features_{index}')
        kernels = self.predictor(features, group.token_size)
        return split_weights(kernels, group, getattr(self, f'place_of_kernel_{index}'))

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # few operations, and their rounding would add up
            weights: Dict[str, Tensor] = {}
            for index, group in enumerate(self.plan.groups):
                weights.update(self._weights(index, group))
        return torch.func.functional_call(self.model, weights, (images,))

    @torch.no_grad()
    def materialize(self) -> nn.Module:
        """Write the generated weights into the base model and return it: the network that users of the artifact get.

        The predictor is rounded as its artifact stores it, so that what is measured is what is shipped.
        """
        stored = as_stored(self.predictor, self.plan.config)
        for name, weight in generate_weights(stored, self.plan).items():
            self.model.get_parameter(name).copy_(weight)
        return self.model
