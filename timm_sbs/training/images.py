"""The images of a run: read or drawn, for training and for validation, on all processes."""
import math
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Tuple, Union

import torch
from accelerate import Accelerator
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader

from timm_sbs.errors import SbsError
from timm_sbs.evaluation import Accuracy, evaluate
from timm_sbs.training.batches import SampleBatches, StreamBatches
from timm_sbs.training.checkpoints import Checkpoints
from timm_sbs.training.configuration import Settings
from timm_sbs.training.data import eval_loader, sample_loader, train_batches
from timm_sbs.training.settings import FEWEST_IMAGES
from timm_sbs.training.synthetic import NoiseImages, SyntheticImages, invert

__all__ = ['Images', 'open_images', 'synthetic_batches', 'sample_images', 'measure']


@dataclass(frozen=True)
class Images:
    """What there is at the start of a run.

    Attributes:
        train: Training images, unless there are none or they are drawn later.
        validation: Labelled images on which top-1 is measured, if there are any.
        sample: Batches for statistics, and how many images they hold over all processes; None as for ``train``.
    """
    train: Union[SampleBatches, StreamBatches, None]
    validation: Optional[DataLoader]
    sample: Optional[Tuple[Iterable[Any], int]] = None


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
        train = train_batches(data, pretrained_cfg, seed, accelerator.process_index, accelerator.num_processes)
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
    return Images(train, validation, sample)


def synthetic_batches(
        settings: Settings,
        original: nn.Module,
        pretrained_cfg: Mapping[str, Any],
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        seed: int,
) -> SampleBatches:
    """Training images for users who have none, as ``settings.data_free`` says."""
    data_config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    if settings.data_free == 'noise':
        dataset: Any = NoiseImages(data_config)
    else:
        def draw() -> Dict[str, Tensor]:
            images, labels = invert(original, data_config, settings.inversion, accelerator, seed)
            return {'images': images, 'labels': labels}

        drawn = checkpoints.once('synthetic', draw)
        dataset = SyntheticImages(drawn['images'], drawn['labels'])
    return SampleBatches(
        dataset, settings.data.batch_size, settings.data.workers, seed, accelerator.process_index,
        accelerator.num_processes, pin_memory=torch.cuda.is_available())


def sample_images(
        images: Images,
        settings: Settings,
        synthetic: Optional[SampleBatches],
        accelerator: Accelerator,
) -> Tuple[Iterator[Tensor], int]:
    """Images for statistics: this process's batches [B, C, H, W], and the number of images over all processes."""
    processes = accelerator.num_processes
    if synthetic is not None:
        batches: Iterable[Any] = synthetic.starting_at(0)
        wanted = math.ceil(settings.second_order.images / processes)
        return _first(batches, wanted), wanted * processes
    batches, count = images.sample
    mine = len(range(accelerator.process_index, count, processes))
    return _first(batches, mine), count


def _first(batches: Iterable[Any], count: int) -> Iterator[Tensor]:
    """The first ``count`` images of some batches, or all there are."""
    if count <= 0:
        return
    for images, *_ in batches:
        yield images[:count]
        count -= len(images)
        if count <= 0:
            return


def measure(
        model: nn.Module,
        loader: DataLoader,
        accelerator: Accelerator,
        description: str = 'validation',
) -> Accuracy:
    """Top-1 accuracy over the images of all processes. Leaves random states as they were, for runs to be repeatable."""
    with torch.random.fork_rng(devices=[]):
        accuracy = evaluate(model, loader, description, quiet=not accelerator.is_main_process)
    counts = torch.tensor([accuracy.correct, accuracy.images], device=accelerator.device)
    correct, images = accelerator.reduce(counts, reduction='sum').tolist()
    return Accuracy(correct, images)
