"""The images of a run: read or drawn, for training, statistics, the choice of an artifact, and validation."""
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import warn
from timm_sbs.data.augmentation import data_config_of
from timm_sbs.data.batches import SampleBatches, StreamBatches
from timm_sbs.data.datasets import Sample, skipped_message
from timm_sbs.data.image_size import resize, size_at
from timm_sbs.data.loaders import HeldOutImages, eval_loader, held_out_loader, sample_loader, train_batches
from timm_sbs.data.mixing import ImageMixer
from timm_sbs.data.synthetic import InversionSettings, NoiseImages, SyntheticImages, invert
from timm_sbs.training.checkpoints import Checkpoints
from timm_sbs.training.phase_settings import FEWEST_IMAGES
from timm_sbs.training.phases.distillation import TrainingImages
from timm_sbs.training.settings import Settings

__all__ = ['Images', 'drawn_images', 'open_images', 'statistics_images', 'training_images']


@dataclass(frozen=True)
class Images:
    """What there is at the start of a run.

    Attributes:
        train: Training images, unless there are none or they are drawn later.
        validation: Labelled images on which the artifact that is kept is measured at the end, if there are any.
        sample: Batches for statistics, and how many images they hold over all processes; None as for ``train``.
        held_out: Training images that are neither in ``train`` nor in ``sample``, if some are held out.
    """
    train: SampleBatches | StreamBatches | None = None
    validation: DataLoader[Sample] | None = None
    sample: tuple[Iterable[Sequence[Tensor]], int] | None = None
    held_out: HeldOutImages | None = None

    def tell_skipped(self, accelerator: Accelerator) -> None:
        """Tell which files could not be read so far. All processes have to call this."""
        loaders = self.train, self.validation, self.sample and self.sample[0], self.held_out and self.held_out.batches
        if skipped := skipped_message(loaders, gather_object):
            warn(accelerator, skipped)


def open_images(settings: Settings, pretrained_cfg: Mapping[str, Any], accelerator: Accelerator) -> Images:
    """Open the images that a run reads, so that a wrong folder is found before any work.

    Raises:
        SbsError: There are none where they should be, or fewer than one batch.
    """
    images, seed = settings.images, settings.run.seed
    index, processes = accelerator.process_index, accelerator.num_processes
    if not images.given:
        return Images()
    validation = train = sample = held_out = None
    if images.validation:
        validation = eval_loader(images, pretrained_cfg)
        if processes > 1:
            validation = accelerator.prepare_data_loader(validation)
    if settings.distils and not images.data_free:
        train = train_batches(
            images, pretrained_cfg, seed, index, processes, labelled=any(settings.distillation.label_weight),
            wanted=settings.batches * images.batch_size * processes, device=accelerator.device)
    if settings.takes_statistics and not images.data_free:
        sample = sample_loader(images, pretrained_cfg, settings.second_order.statistics_images, seed, index, processes)
        if sample[1] < FEWEST_IMAGES:
            raise SbsError(f"'{images.where}' holds {sample[1]} training image(s), and statistics need at least "
                           f'{FEWEST_IMAGES}. Add images, use --data-free, or set --second-order-steps 0.')
    if train or sample:
        held_out = held_out_loader(images, pretrained_cfg, index, processes)
    return Images(train, validation, sample, held_out)


def drawn_images(
        settings: Settings,
        original: nn.Module,
        pretrained_cfg: Mapping[str, Any],
        accelerator: Accelerator,
        checkpoints: Checkpoints,
) -> SampleBatches | None:
    """Training images for users who have none, as ``data_free`` says; None where images are read, or not needed."""
    images, data_config, seed = settings.images, data_config_of(pretrained_cfg), settings.run.seed
    if not images.data_free or not (settings.takes_statistics or settings.distils):
        return None
    dataset: NoiseImages | SyntheticImages = NoiseImages(data_config)
    if images.data_free == 'inversion':
        def draw() -> dict[str, Tensor]:
            inversion = InversionSettings(images.synthetic_images, images.synthetic_steps)
            drawn, labels = invert(original.to(accelerator.device), data_config, inversion, accelerator, seed)
            return {'images': drawn, 'labels': labels}

        found = checkpoints.load_or_compute('synthetic', draw)
        dataset = SyntheticImages(found['images'], found['labels'])
    return SampleBatches(
        dataset, images.batch_size, images.readers, seed, accelerator.process_index, accelerator.num_processes,
        accelerator.device)


def statistics_images(
        images: Images,
        drawn: SampleBatches | None,
        count: int,
        accelerator: Accelerator,
) -> tuple[Iterator[Tensor], int]:
    """This process's batches of images [B, C, H, W], without labels, and the number of images over all processes."""
    if drawn is not None:
        mine = math.ceil(count / accelerator.num_processes)
        return _first(drawn.starting_at(0), mine), mine * accelerator.num_processes
    batches, found = images.sample or ([], 0)
    count = min(count, found)
    return _first(batches, len(range(accelerator.process_index, count, accelerator.num_processes))), count


def _first(batches: Iterable[Sequence[Tensor]], count: int) -> Iterator[Tensor]:
    """The first ``count`` images of some batches, or all there are."""
    if count <= 0:
        return
    for images, *_ in batches:
        yield images[:count]
        count -= len(images)
        if count <= 0:
            return


def training_images(
        settings: Settings,
        images: Images,
        drawn: SampleBatches | None,
        num_classes: int,
        accelerator: Accelerator,
) -> TrainingImages:
    """Batches of the images that a run reads, or has drawn, and what becomes of each of them."""
    data, distillation = settings.images, settings.distillation
    batches = drawn or images.train
    if batches is None:
        raise SbsError('There are no images to train on.')
    mixer = ImageMixer(
        data.mixup, data.cutmix, num_classes, settings.run.seed, accelerator.process_index,
        labelled=any(distillation.label_weight))

    def prepare(batch: Tensor, labels: Tensor, number: int, step: int) -> tuple[Tensor, Tensor]:
        batch, labels = mixer(batch, labels, number)
        if data.train_size:
            batch = resize(batch, size_at(data.train_size, step, distillation.steps))
        return batch, labels

    return TrainingImages(batches, prepare)
