"""BatchNorm statistics in training: whether they follow the images."""
from torch import nn

__all__ = ['followed_statistics', 'set_statistics_mode']

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


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
