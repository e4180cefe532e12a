"""The loss of distillation: how far a generated model is from the original on a batch of images."""
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.data.outputs import outputs_of
from timm_sbs.training.losses.feature_maps import FeatureMaps, feature_modules
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.trainable.generated_model import GeneratedModel

__all__ = ['Objective', 'feature_loss']


def feature_loss(maps: Sequence[Tensor], original_maps: Sequence[Tensor]) -> Tensor:
    """Relative squared error of feature maps, the mean over maps.

    Our choice: unlike the plain squared error of NeRN (arXiv 2212.13554) it weighs early and late maps alike.
    """
    errors = [
        (a.float() - b.float()).square().sum() / b.float().square().sum().clamp(min=1e-12)
        for a, b in zip(maps, original_maps)]
    return torch.stack(errors).mean()


class Objective:
    """The weighted sum of distillation losses on a batch.

    Args:
        student: The generated model.
        original: The original model, in eval mode, on the device.
        settings: Weights, temperature, feature modules.
        accelerator: Sets the precision.
    """

    def __init__(
            self,
            student: GeneratedModel,
            original: nn.Module,
            settings: Distillation,
            accelerator: Accelerator,
    ) -> None:
        self.student = student
        self.original = original
        self.settings = settings
        self.accelerator = accelerator
        self.outputs = outputs_of(student.model)
        self._maps: tuple[FeatureMaps, FeatureMaps] | None = None
        if any(settings.feature_weight):
            names = feature_modules(original, settings.feature_modules)
            self._maps = FeatureMaps(student.model, names), FeatureMaps(original, names)

    def __call__(self, images: Tensor, labels: Tensor, weights: dict[str, Tensor], step: int) -> Tensor:
        """Loss of a batch on the device, at a step counted from 0."""
        output_weight, feature_weight, label_weight = self.settings.weights_at(step)
        expected: Tensor | None = None
        with self.accelerator.autocast():
            if self._maps or output_weight:
                with torch.no_grad():
                    expected = self.original(images)
            found = self.student(images, weights)
        loss = torch.zeros((), device=found.device)
        if output_weight and expected is not None:
            loss = loss + output_weight * self.outputs.distillation_loss(found, expected, self.settings.temperature)
        if self._maps:
            loss = loss + feature_weight * feature_loss(*(maps.take() for maps in self._maps))
        if label_weight:
            loss = loss + label_weight * F.cross_entropy(found.float(), labels)
        return loss

    def close(self) -> None:
        """Remove the hooks."""
        for maps in self._maps or ():
            maps.close()
