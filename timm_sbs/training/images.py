"""The images of a run: read or drawn, for training, statistics, the choice of an artifact, and validation."""
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from timm_sbs.common.errors import SbsError
from timm_sbs.data.augmentation import data_config_of
from timm_sbs.data.batches import TrainingBatches
from timm_sbs.data.datasets import ImagesInMemory, Sample
from timm_sbs.data.loaders import CountedImages, eval_loader, sample_and_held_out, train_batches
from timm_sbs.data.outputs import Outputs
from timm_sbs.data.synthetic import drawn_transform, invert
from timm_sbs.training.checkpoints import Checkpoints
from timm_sbs.training.phase_settings import FEWEST_IMAGES
from timm_sbs.training.settings import Settings

__all__ = ['Images', 'draw_images', 'open_images', 'statistics_images']


@dataclass(frozen=True)
class Images:
    """What there is at the start of a run.

    Attributes:
        train: Training images, if there are any; they may be drawn later.
        validation: Labelled images on which the artifact that is kept is measured at the end, if there are any.
        sample: Images for statistics, where training images are read.
        held_out: Training images that are neither in ``train`` nor in ``sample``, if some are held out.
    """
    train: TrainingBatches | None = None
    validation: DataLoader[Sample] | None = None
    sample: CountedImages | None = None
    held_out: CountedImages | None = None


def open_images(settings: Settings, pretrained_cfg: Mapping[str, Any], accelerator: Accelerator) -> Images:
    """Open the images that a run reads, so that a wrong folder is found before any work.

    Raises:
        SbsError: There are none where they should be, or fewer than one batch.
    """
    images, seed = settings.images, settings.run.seed
    if not images.given:
        return Images()
    validation = train = None
    if images.validation:
        validation = eval_loader(images, pretrained_cfg)
        if accelerator.num_processes > 1:
            validation = accelerator.prepare_data_loader(validation)
    if images.data_free or not (settings.distils or settings.takes_statistics):
        return Images(validation=validation)
    if settings.distils:
        train = train_batches(
            images, pretrained_cfg, accelerator, seed,
            wanted=settings.distillation.steps * images.batch_size * accelerator.num_processes)
    sample, held_out = sample_and_held_out(
        images, pretrained_cfg, accelerator, settings.second_order.statistics_images, seed)
    if settings.takes_statistics and sample.count < FEWEST_IMAGES:
        raise SbsError(f"'{images.where}' holds {sample.count} training image(s), and statistics need at least "
                       f'{FEWEST_IMAGES}. Add images, use --data-free, or set --second-order-steps 0.')
    return Images(train, validation, sample, held_out if held_out.count else None)


def draw_images(
        settings: Settings,
        original: nn.Module,
        pretrained_cfg: Mapping[str, Any],
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        outputs: Outputs,
) -> TrainingBatches:
    """Training images for users who have none, drawn once in a run, however often it is resumed."""
    images, data_config, seed = settings.images, data_config_of(pretrained_cfg), settings.run.seed

    drawn = checkpoints.load_or_compute('synthetic', lambda: invert(
        original.to(accelerator.device), data_config, images.synthetic_images, images.synthetic_steps, accelerator,
        seed, outputs))
    dataset = ImagesInMemory(TensorDataset(drawn, torch.zeros(len(drawn), dtype=torch.long)), 0)
    return TrainingBatches(dataset, drawn_transform(data_config), images.batch_size, 0, accelerator, seed)


def statistics_images(images: Images, count: int, accelerator: Accelerator) -> tuple[Iterator[Tensor], int]:
    """This process's batches of images [B, C, H, W], without labels, and the number of images over all processes."""
    if images.sample is None:
        assert images.train, 'they are drawn'
        mine = math.ceil(count / accelerator.num_processes)
        return _first(images.train.starting_at(0), mine), mine * accelerator.num_processes
    count = min(count, images.sample.count)
    mine = len(range(accelerator.process_index, count, accelerator.num_processes))
    return _first((batch for batch, _ in images.sample.batches), mine), count


def _first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """The first ``count`` images of some batches, or all there are."""
    if count <= 0:
        return
    for images in batches:
        yield images[:count]
        count -= len(images)
        if count <= 0:
            return
