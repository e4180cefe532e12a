"""Kept tensors: what an artifact stores as it is. Some or all of them are trained with the predictor."""
from collections.abc import Iterable, Sequence

from torch import nn

from timm_sbs.predictor.selection import named_in_cfg

__all__ = ['kept_parameters', 'part_of_parameters', 'set_statistics_mode', 'followed_statistics']

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NORMS = (*_BATCH_NORMS, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


def part_of_parameters(model: nn.Module) -> dict[str, str]:
    """Part of the network that each parameter belongs to: 'norm', 'stem', 'classifier' or 'other'.

    timm's ``pretrained_cfg`` names the stem's convolution ('first_conv') and the classifier.
    """
    stems, classifiers = named_in_cfg(model, 'first_conv'), named_in_cfg(model, 'classifier')
    parts = {}
    for module_name, module in model.named_modules():
        if isinstance(module, _NORMS):
            part = 'norm'
        elif module_name in stems:
            part = 'stem'
        elif module_name in classifiers:
            part = 'classifier'
        else:
            part = 'other'
        for name, _ in module.named_parameters(module_name, recurse=False):
            parts[name] = part
    return parts


def kept_parameters(
        model: nn.Module,
        generated: Iterable[str],
        parts: Sequence[str],
) -> dict[str, nn.Parameter]:
    """Parameters of some parts that are not generated, by name."""
    generated = set(generated)
    part_of = part_of_parameters(model)
    return {
        name: parameter for name, parameter in model.named_parameters()
        if name not in generated and part_of[name] in parts}


def set_statistics_mode(model: nn.Module, training: bool) -> None:
    """Whether BatchNorm uses and follows the statistics of the batch, or keeps and uses its stored ones."""
    for module in model.modules():
        if isinstance(module, _BATCH_NORMS):
            module.train(training)


def followed_statistics(model: nn.Module) -> set[str]:
    """Names of the running statistics of BatchNorm layers in training mode, which a forward pass changes."""
    return {
        f'{module_name}.{name}' if module_name else name
        for module_name, module in model.named_modules()
        if isinstance(module, _BATCH_NORMS) and module.training
        for name, _ in module.named_buffers(recurse=False)}
