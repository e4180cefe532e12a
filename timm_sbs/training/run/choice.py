"""What chooses the artifact that a run keeps: how well it predicts what the original predicts on held-out images."""
import functools

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.data.batches import StreamBatches
from timm_sbs.data.fidelity import Fidelity, fidelity, with_logits
from timm_sbs.data.held_out import LEAST_IMAGES
from timm_sbs.data.loaders import HeldOutImages
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.run.images import Images

__all__ = ['HeldOut', 'held_out_results', 'describe_choice']


class HeldOut:
    """Training images that no step sees, and what the original predicts on them, which is computed once."""

    def __init__(self, images: HeldOutImages, original: nn.Module, accelerator: Accelerator) -> None:
        self.count = images.count
        self._batches, self._original, self._accelerator = images.batches, original, accelerator

    @functools.cached_property
    def _logits(self) -> list[Tensor]:
        """The original's, in float32: of this process's batches [B, classes]."""
        original = self._original.to(self._accelerator.device)  # parameters moved in inference mode take no gradients
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            return [logits for _, _, logits in with_logits(original, self._batches)]

    def measure(self, model: nn.Module) -> Fidelity:
        """A model on the device, beside the original. All processes have to call this."""
        seen = ((images, labels, logits) for (images, labels), logits in zip(self._batches, self._logits))
        return fidelity(model, seen, self._accelerator, 'held-out images', len(self._batches))


def held_out_results(found: Fidelity) -> dict[str, float]:
    """What results, rows and trackers say of a look at held-out images, without digits that mean nothing."""
    return {'holdout_divergence': float(f'{found.divergence:.6g}'), 'holdout_agreement': round(found.agreement, 3)}


def describe_choice(images: Images, settings: Settings) -> str:
    """How a run that trains on images chooses the artifact that it keeps, as one line."""
    if images.held_out:
        return (f'{images.held_out.count:,} training images are held out: of all artifacts that are measured on them, '
                f'that with the lowest divergence from the original is kept.')
    if settings.data_free:
        why = 'the images are drawn'
    elif isinstance(images.train, StreamBatches):
        why = 'the training images are a stream'
    elif settings.data.holdout_images == 0:
        why = '--holdout-images 0'
    else:
        why = f'there are fewer than {LEAST_IMAGES}'
    return f'No training image is held out ({why}), so that the last artifact is kept.'
