"""What distillation minimises: how far a generated model is from the original on a batch of images."""
from typing import Dict, Iterator, Optional, Tuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from timm_sbs.training.batches import Batch
from timm_sbs.training.feature_maps import FeatureMaps, feature_modules
from timm_sbs.training.generated_model import GeneratedModel
from timm_sbs.training.losses import distillation_loss, feature_loss
from timm_sbs.training.settings import DistillationSettings

__all__ = ['Objective', 'original_outputs']


class Objective:
    """The weighted sum of distillation losses on a batch.

    Args:
        student: The generated model.
        original: The original model, in eval mode, on the device.
        settings: Weights, temperature, feature modules.
        accelerator: Sets the precision.
        cached: The original's logits [images, classes] of all training images, where augmentation allows it.
    """

    def __init__(
            self,
            student: GeneratedModel,
            original: nn.Module,
            settings: DistillationSettings,
            accelerator: Accelerator,
            cached: Optional[Tensor] = None,
    ) -> None:
        self.student = student
        self.original = original
        self.settings = settings
        self.accelerator = accelerator
        self.cached = cached
        self._maps: Optional[Tuple[FeatureMaps, FeatureMaps]] = None
        if any(settings.feature_weight):
            names = feature_modules(original, settings.feature_modules)
            self._maps = FeatureMaps(student.model, names), FeatureMaps(original, names)

    def __call__(self, batch: Batch, weights: Dict[str, Tensor], step: int) -> Tensor:
        """Loss of a batch on the device, at a step counted from 0."""
        images, labels, indices = batch
        output_weight, feature_weight, label_weight = self.settings.weights_at(step)
        with self.accelerator.autocast():
            original_logits = None
            if self._maps or (output_weight and self.cached is None):
                with torch.no_grad():
                    original_logits = self.original(images)
            logits = self.student(images, weights)
        loss = torch.zeros((), device=logits.device)
        if output_weight:
            if self.cached is not None:
                original_logits = self.cached[indices]
            loss = loss + output_weight * distillation_loss(logits, original_logits, self.settings.temperature)
        if self._maps:
            loss = loss + feature_weight * feature_loss(*(maps.take() for maps in self._maps))
        if label_weight:
            loss = loss + label_weight * F.cross_entropy(logits.float(), labels)
        return loss

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
    """The original's logits of all training images, for augmentation that draws nothing: [images, classes].

    Args:
        original: In eval mode, on the device.
        in_order: Batches of this process; over all processes they cover every image.
        num_images: In the training set.
        accelerator: Sets the precision, and adds up what the processes have.
    """
    outputs: Optional[Tensor] = None
    for images, _, indices in tqdm(in_order, desc="original's outputs", unit='batch', disable=None):
        images = images.to(accelerator.device, memory_format=torch.channels_last)
        with accelerator.autocast():
            logits = original(images).float()
        if outputs is None:
            outputs = logits.new_zeros(num_images, logits.shape[1])
        outputs[indices.to(logits.device)] = logits
    return accelerator.reduce(outputs, reduction='sum')
