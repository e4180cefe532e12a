"""The loss of distillation: how far predictions and feature maps of a generated model are from the original's."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from timm_sbs.common.errors import SbsError
from timm_sbs.data.outputs import Outputs, outputs_of
from timm_sbs.training.phase_settings import Distillation
from timm_sbs.training.trainable.generated_model import GeneratedModel

__all__ = ['distillation_loss', 'feature_modules']


def feature_modules(model: nn.Module) -> list[str]:
    """Modules whose outputs are compared: those that timm's ``feature_info`` names.

    Raises:
        SbsError: timm does not say where the model's features come from.
    """
    modules = dict(model.named_modules())
    names = [info['module'] for info in getattr(model, 'feature_info', None) or () if info['module'] in modules]
    if not names:
        raise SbsError(f'timm does not say where the feature maps of {type(model).__name__} come from. Set '
                       f'--feature-weight 0.')
    return names


@contextmanager
def collected(model: nn.Module, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """Outputs of some modules in the forward passes within the block, in the order of execution."""
    found: list[Tensor] = []
    hooks = [model.get_submodule(name).register_forward_hook(lambda module, inputs, output: found.append(output))
             for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def feature_loss(maps: Sequence[Tensor], original_maps: Sequence[Tensor]) -> Tensor:
    """Relative squared error of feature maps, the mean over maps.

    Our choice: unlike the plain squared error of NeRN (arXiv 2212.13554) it weighs early and late maps alike.
    """
    errors = [
        (a.float() - b.float()).square().sum() / b.float().square().sum().clamp(min=1e-12)
        for a, b in zip(maps, original_maps)]
    return torch.stack(errors).mean()


def distillation_loss(
        student: GeneratedModel,
        original: nn.Module,
        images: Tensor,
        weights: dict[str, Tensor],
        settings: Distillation,
        outputs: Outputs | None = None,
) -> Tensor:
    """The loss of a batch: the divergence of the predictions, and the weighted error of feature maps.

    The original is in eval mode and on the device, as are the images [B, C, H, W]; ``weights`` are the student's.
    ``outputs`` says what outputs mean; None: what the original's ``num_classes`` says.
    """
    names = feature_modules(original) if settings.feature_weight else []
    with (collected(student.model, names) as maps, collected(original, names) as original_maps,
          student.accelerator.autocast()):
        with torch.no_grad():
            expected = original(images)
        found = student(images, weights)
    loss = (outputs or outputs_of(original)).distillation_loss(found, expected, settings.temperature)
    return loss + settings.feature_weight * feature_loss(maps, original_maps) if names else loss
