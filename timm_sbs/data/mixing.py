"""Images of a batch mixed with each other: more to learn from where images are few."""

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from timm_sbs.data.batches import kept_random_states

__all__ = ['ImageMixer']


class ImageMixer:
    """timm's mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899), the same in a run that was resumed.

    Original and generated model see the same mixture, so that its outputs need no label.
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
        """
        Args:
            mixup: Both shares of a mixture are drawn from Beta(mixup, mixup); 0 mixes none.
            cutmix: The same for pasted rectangles. If both are above 0, each batch takes one of them by chance.
            num_classes: Of the labels, which are mixed too; 0 of a network without a classifier.
            seed: Of all that is drawn.
            process_index: Of this process, which draws for itself.
            labelled: Whether labels are used. If not, they may be anything, and stay as they are.
        """
        classes = max(1, num_classes)  # timm mixes labels even where there are none
        self._mix = Mixup(mixup, cutmix, num_classes=classes, label_smoothing=0.) if mixup or cutmix else None
        self._seeds = seed, process_index
        self._labelled = labelled

    def __call__(self, images: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: [B, C, H, W]; B is even. Overwritten.
            labels: Class indices [B].
            number: Of the batch, counted from 0 over the whole run.

        Returns:
            Images, and labels: indices [B] as they were if they are not used or nothing is mixed, else shares of each
            class [B, classes].
        """
        if self._mix is None:
            return images, labels
        with kept_random_states():
            np.random.seed(np.random.SeedSequence([*self._seeds, number]).generate_state(1))
            mixed, shares = self._mix(images, labels if self._labelled else torch.zeros_like(labels))
        return mixed, shares if self._labelled else labels
