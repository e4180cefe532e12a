"""The images of a run: read or drawn, for training, for the choice of an artifact, and for validation."""
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
from timm_sbs.data.batches import SampleBatches, StreamBatches
from timm_sbs.data.folders import LabelledImages
from timm_sbs.data.loaders import HeldOutImages, eval_loader, held_out_loader, sample_loader, train_batches
from timm_sbs.data.pictures import Sample, data_config_of, describe_skipped, pictures_of
from timm_sbs.data.synthetic import NoiseImages, SyntheticImages, invert
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.options.settings import FEWEST_IMAGES
from timm_sbs.training.run.checkpoints import Checkpoints

__all__ = ['Images', 'open_images', 'synthetic_batches', 'sample_images']


@dataclass(frozen=True)
class Images:
    """What there is at the start of a run.

    Attributes:
        train: Training images, unless there are none or they are drawn later.
        validation: Labelled images on which the artifact that is kept is measured at the end, if there are any.
        sample: Batches for statistics, and how many images they hold over all processes; None as for ``train``.
        held_out: Training images that are neither in ``train`` nor in ``sample``, if some are held out.
    """
    train: SampleBatches | StreamBatches | None
    validation: DataLoader[Sample] | None
    sample: tuple[Iterable[Sequence[Tensor]], int] | None = None
    held_out: HeldOutImages | None = None

    @property
    def _loaders(self) -> list[Any]:
        return [self.train, self.validation, self.sample and self.sample[0], self.held_out and self.held_out.batches]

    def tell_notes(self, accelerator: Accelerator) -> None:
        """Tell what was noted when the images were opened."""
        opened = [pictures for pictures in map(pictures_of, self._loaders) if pictures]
        for note in dict.fromkeys(note for pictures in opened for note in pictures.notes):
            warn(accelerator, note)

    def tell_skipped(self, accelerator: Accelerator) -> None:
        """Tell which files could not be read so far. All processes have to call this."""
        skipped = describe_skipped(self._loaders, gather_object)
        if skipped:
            warn(accelerator, skipped)


def open_images(
        settings: Settings,
        pretrained_cfg: Mapping[str, Any],
        accelerator: Accelerator,
        seed: int,
) -> Images:
    """Open the images that a run reads, so that a wrong folder is found before any work.

    Raises:
        SbsError: There are none where they should be, or fewer than one batch.
    """
    data, train, validation, sample = settings.data, None, None, None
    if data.given and data.validation:
        validation = eval_loader(data, pretrained_cfg)
        if accelerator.num_processes > 1:
            validation = accelerator.prepare_data_loader(validation)
    if data.given and settings.trains_on_images and not settings.data_free:
        train = train_batches(
            data, pretrained_cfg, seed, accelerator.process_index, accelerator.num_processes,
            labelled=any(settings.distillation.label_weight),
            wanted=settings.batches * data.batch_size * accelerator.num_processes, device=accelerator.device)
    if data.given and settings.takes_statistics and not settings.data_free:
        try:
            sample = sample_loader(data, pretrained_cfg, settings.second_order.images, seed,
                                   accelerator.process_index, accelerator.num_processes)
        except SbsError as e:
            reason = str(e).rstrip('.')
            raise SbsError(f'{reason}. Without training images, use --data-free or --second-order-steps 0.') from e
        if sample[1] < FEWEST_IMAGES:
            raise SbsError(
                f"'{data.where}' holds {sample[1]} training image(s), and statistics need at least "
                f'{FEWEST_IMAGES}. Add images (they need no labels), use --data-free, or leave the phase out with '
                f'--second-order-steps 0.')
    held_out = None
    if train or sample:
        held_out = held_out_loader(data, pretrained_cfg, accelerator.process_index, accelerator.num_processes)
    return Images(train, validation, sample, held_out)


def synthetic_batches(
        settings: Settings,
        original: nn.Module,
        pretrained_cfg: Mapping[str, Any],
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        seed: int,
) -> SampleBatches:
    """Training images for users who have none, as ``settings.data_free`` says."""
    data_config = data_config_of(pretrained_cfg)
    if settings.data_free == 'noise':
        dataset: LabelledImages = NoiseImages(data_config)
    else:
        def draw() -> dict[str, Tensor]:
            images, labels = invert(original, data_config, settings.inversion, accelerator, seed)
            return {'images': images, 'labels': labels}

        drawn = checkpoints.load_or_compute('synthetic', draw)
        dataset = SyntheticImages(drawn['images'], drawn['labels'])
    return SampleBatches(
        dataset, settings.data.batch_size, settings.data.readers, seed, accelerator.process_index,
        accelerator.num_processes, accelerator.device)


def sample_images(
        images: Images,
        settings: Settings,
        synthetic: SampleBatches | None,
        accelerator: Accelerator,
) -> tuple[Iterator[Tensor], int]:
    """Images for statistics: this process's batches [B, C, H, W], and the number of images over all processes."""
    processes = accelerator.num_processes
    if synthetic is not None:
        wanted = math.ceil(settings.second_order.images / processes)
        return _first(synthetic.starting_at(0), wanted), wanted * processes
    batches, count = images.sample or ([], 0)
    mine = len(range(accelerator.process_index, count, processes))
    return _first(batches, mine), count


def _first(batches: Iterable[Sequence[Tensor]], count: int) -> Iterator[Tensor]:
    """The first ``count`` images of some batches, or all there are."""
    if count <= 0:
        return
    for images, *_ in batches:
        yield images[:count]
        count -= len(images)
        if count <= 0:
            return
