"""What distillation minimises: how far a generated model is from the original on a batch of images."""
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.progress import Progress
from timm_sbs.data.batches import Batch
from timm_sbs.data.outputs import outputs_of
from timm_sbs.training.losses.distances import feature_loss
from timm_sbs.training.losses.feature_maps import FeatureMaps, feature_modules
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.steps.generated_model import GeneratedModel

__all__ = ['Objective', 'original_outputs']


class Objective:
    """The weighted sum of distillation losses on a batch.

    Args:
        student: The generated model.
        original: The original model, in eval mode, on the device.
        settings: Weights, temperature, feature modules.
        accelerator: Sets the precision.
        cached: The original's outputs [images, ...] of all training images, where augmentation allows it.
    """

    def __init__(
            self,
            student: GeneratedModel,
            original: nn.Module,
            settings: DistillationSettings,
            accelerator: Accelerator,
            cached: Tensor | None = None,
    ) -> None:
        self.student = student
        self.original = original
        self.settings = settings
        self.accelerator = accelerator
        self.cached = cached
        self.outputs = outputs_of(student.model)
        self._maps: tuple[FeatureMaps, FeatureMaps] | None = None
        if any(settings.feature_weight):
            names = feature_modules(original, settings.feature_modules)
            self._maps = FeatureMaps(student.model, names), FeatureMaps(original, names)

    def __call__(self, batch: Batch, weights: dict[str, Tensor], step: int) -> Tensor:
        """Loss of a batch on the device, at a step counted from 0."""
        images, labels, indices = batch
        output_weight, feature_weight, label_weight = self.settings.weights_at(step)
        with self.accelerator.autocast():
            expected = self._original_outputs(images, indices) if self._maps or output_weight else None
            found = self.student(images, weights)
        loss = torch.zeros((), device=found.device)
        if output_weight and expected is not None:
            loss = loss + output_weight * self.outputs.distillation_loss(found, expected, self.settings.temperature)
        if self._maps:
            loss = loss + feature_weight * feature_loss(*(maps.take() for maps in self._maps))
        if label_weight:
            loss = loss + label_weight * F.cross_entropy(found.float(), labels)
        return loss

    @torch.no_grad()
    def _original_outputs(self, images: Tensor, indices: Tensor) -> Tensor:
        """Cached, or of the original now; for its feature maps it is run in any case."""
        if self.cached is None:
            return self.original(images)
        if self._maps:
            self.original(images)
        return self.cached[indices]

    def close(self) -> None:
        """Remove the hooks."""
        for maps in self._maps or ():
            maps.close()


@torch.no_grad()
def original_outputs(
        original: nn.Module,
        in_order: Iterator[Batch],
        num_images: int,
        accelerator: Accelerator,
) -> Tensor:
    """The original's outputs on all training images, for augmentation that draws nothing: [images, ...].

    Args:
        original: In eval mode, on the device.
        in_order: Batches of this process; over all processes they cover every image.
        num_images: In the training set.
        accelerator: Sets the precision, and adds up what the processes have.
    """
    outputs: Tensor | None = None
    mine = num_images // accelerator.num_processes
    with Progress(mine, "original's outputs", 'image', accelerator=accelerator) as progress:
        for images, _, indices in in_order:
            images = images.to(accelerator.device, memory_format=torch.channels_last)
            with accelerator.autocast():
                logits = original(images).float()
            if outputs is None:
                outputs = logits.new_zeros(num_images, logits.shape[1])
            outputs[indices.to(logits.device)] = logits
            progress.update(len(images))
    return accelerator.reduce(outputs, reduction='sum')
