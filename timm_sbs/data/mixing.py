"""Images of a batch mixed with each other: more to learn from where images are few."""
import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from timm_sbs.data.batches import kept_random_states

__all__ = ['ImageMixer']


class ImageMixer:
    """timm's mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899), the same in a run that is resumed.

    Original and generated model see the same mixture, so that no labels are needed.

    Args:
        mixup: The shares of two images are drawn from Beta(mixup, mixup); 0: no mixup.
        cutmix: The same for rectangles; if both are above 0, each batch takes one of them at random.
        num_classes: Of the labels; 0 of a network without a classifier.
        seed: Of all that is drawn.
        process_index: Of this process, which draws for itself.
        labelled: Whether labels are used. If not, they may be anything, and are returned as they are.
    """

    def __init__(
            self,
            mixup: float,
            cutmix: float,
            num_classes: int,
            seed: int = 0,
            process_index: int = 0,
            labelled: bool = True,
    ) -> None:
        classes = max(1, num_classes)  # timm mixes labels even where there are none
        self._mix = Mixup(mixup, cutmix, num_classes=classes, label_smoothing=0.) if mixup or cutmix else None
        self._seeds = seed, process_index
        self._labelled = labelled

    def __call__(self, images: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Mix the batch with a number: images [B, C, H, W], which are overwritten, and class indices [B]; B is even.

        Returns:
            Images, and shares of each class [B, classes]; labels as they were if nothing is mixed.
        """
        if self._mix is None:
            return images, labels
        with kept_random_states():
            np.random.seed(np.random.SeedSequence([*self._seeds, number]).generate_state(1))
            mixed, shares = self._mix(images, labels if self._labelled else torch.zeros_like(labels))
        return mixed, shares if self._labelled else labels
