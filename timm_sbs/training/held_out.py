"""How well artifacts predict what the original predicts, on training images that no step sees."""
import copy
import functools
from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.data.fidelity import Fidelity, fidelity, with_logits

__all__ = ['HeldOut', 'figures_of', 'with_tensors']


class HeldOut:
    """Images for comparisons, and what the original predicts on them, which is computed once."""

    def __init__(
            self,
            batches: Iterable[tuple[Tensor, Tensor]],
            count: int,
            original: nn.Module,
            accelerator: Accelerator,
    ) -> None:
        self.count = count
        self._batches, self._original, self._accelerator = batches, original, accelerator

    @functools.cached_property
    def _logits(self) -> list[Tensor]:
        """The original's, in float32: of this process's batches [B, classes]."""
        original = self._original.to(self._accelerator.device)  # parameters moved in inference mode take no gradients
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            return [logits for _, _, logits in with_logits(original, self._batches)]

    def measure(self, model: nn.Module) -> Fidelity:
        """A model on the device, beside the original. All processes have to call this."""
        seen = ((images, labels, logits) for (images, labels), logits in zip(self._batches, self._logits))
        return fidelity(model, seen, self._accelerator, 'held-out images', len(self._logits))


def figures_of(found: Fidelity) -> dict[str, float]:
    """What results, rows and trackers say of a look at held-out images, without digits that mean nothing."""
    return {'holdout_divergence': float(f'{found.divergence:.6g}'), 'holdout_agreement': round(found.agreement, 3)}


def with_tensors(original: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """A copy of the original with these tensors in place of its own."""
    model = copy.deepcopy(original)
    model.load_state_dict(dict(tensors), strict=False)
    return model.to(device)
