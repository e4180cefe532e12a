"""Feature maps of a network, for losses that compare them."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from timm_sbs.common.errors import SbsError

__all__ = ['FeatureMaps', 'feature_modules']


def feature_modules(model: nn.Module, names: Sequence[str] = ()) -> list[str]:
    """Modules whose outputs are compared: those named, else those that timm's ``feature_info`` names.

    Raises:
        SbsError: The model has no such module, or timm does not say where its features come from.
    """
    if not names:
        names = [info['module'] for info in getattr(model, 'feature_info', None) or ()]
        if not names:
            raise SbsError(
                f'timm does not say where the feature maps of {type(model).__name__} come from. '
                f'Name modules in feature_modules.')
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise SbsError(f"The model has no module '{name}' to take feature maps from (feature_modules).")
    return list(names)


class FeatureMaps:
    """Collects the outputs of some modules in each forward pass, by hooks, until it is closed. Passes in inference mode
    are measurements between steps, and collect nothing."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        self._maps: list[Tensor] = []
        self._hooks = [
            modules[name].register_forward_hook(lambda module, inputs, output: self._collect(output))
            for name in names]

    def _collect(self, output: Tensor) -> None:
        if not torch.is_inference_mode_enabled():
            self._maps.append(output)

    def take(self) -> list[Tensor]:
        """Outputs of the last forward pass, in the order of execution."""
        maps, self._maps[:] = list(self._maps), []
        return maps

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
