"""Everything that a run decides and opens before its first step, so that what is wrong is found at once."""
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from torch import nn

from timm_sbs.artifact.original import load_original
from timm_sbs.artifact.provenance import proved_description
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.common.products import float32_products
from timm_sbs.common.progress import say
from timm_sbs.data.augmentation import data_config_of
from timm_sbs.data.image_size import check_sizes
from timm_sbs.data.outputs import check_outputs
from timm_sbs.data.synthetic import batch_norms
from timm_sbs.predictor.base_model import BaseModel
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.training.checkpoints import Checkpoint, Checkpoints
from timm_sbs.training.design.given_model import adopted, describe_as
from timm_sbs.training.design.sizing import Design, design
from timm_sbs.training.flat_settings import flat
from timm_sbs.training.images import Images, open_images
from timm_sbs.training.losses.feature_maps import feature_modules
from timm_sbs.training.losses.weight_uses import Use, find_uses
from timm_sbs.training.precision import settle_precision
from timm_sbs.training.settings import Settings

__all__ = ['Plan', 'open_plan']

# Settings that may differ between a checkpoint and its resumption, because they change no result.
MAY_CHANGE = {
    'output', 'resume', 'checkpointing_steps', 'report_to', 'push_to_hub', 'hub_private', 'hub_dataset', 'base_model',
    'license', 'workers', 'image_cache', 'dataset_download', 'initial_checkpoint', 'mixed_precision'}
PATHS = ('images', 'data_dir', 'class_map')  # known by what they are called, for they may have moved


@dataclass(frozen=True)
class Plan:
    """What is known before the first step.

    Attributes:
        settings: All settings.
        accelerator: Device, processes, precision.
        told: That precision, and why it was chosen, in a sentence for the user.
        original: The original model.
        design: What is generated or rounded, and by which predictor.
        uses: How the network uses these weights, if there are statistics to collect.
        images: Read, or to be drawn.
        checkpoints: Of the run.
        checkpoint: What it continues from, if it does.
    """
    settings: Settings
    accelerator: Accelerator
    told: str
    original: nn.Module
    design: Design
    uses: Mapping[str, Use]
    images: Images
    checkpoints: Checkpoints
    checkpoint: Checkpoint | None

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the phases, in order: those of :mod:`timm_sbs.training.phases`."""
        target = self.settings.target
        wanted = {
            'reconstruction': not target.rounds, 'second_order': bool(self.uses) and not target.rounds,
            'rounding': target.rounds or target.bits is not None, 'distillation': self.settings.distils}
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)


@contextmanager
def open_plan(
        settings: Settings, model: nn.Module | None = None, whole_program: bool = False, dry_run: bool = False,
) -> Iterator[Plan]:
    """The plan of a run, for a block in which it is carried out.

    Args:
        settings: As they were given.
        model: The original model; None: that which the settings name.
        whole_program: Whether nothing follows: processes then end their group.
        dry_run: Whether nothing is going to be written.

    Raises:
        SbsError: Something about the request is wrong.
    """
    for name in ('checkpointing_steps', 'resume'):
        if getattr(settings.run, name) is not None and not settings.run.output:
            raise ConfigError(f'{name} needs a folder to write to: --output (output=...).')
    with float32_products('tf32'):
        precision, told = settle_precision(settings.run.mixed_precision)
        accelerator = make_accelerator(
            precision, log_with=list(settings.run.report_to) or None, project_dir=settings.run.output or '.')
        try:
            yield _plan(settings, accelerator, told, _original(settings, model), dry_run)
        finally:
            if whole_program:
                accelerator.end_training()
            else:
                for tracker in accelerator.trackers:
                    tracker.finish()


def _original(settings: Settings, model: nn.Module | None) -> nn.Module:
    """timm's network with the original weights, described by what is proved of these."""
    wanted = settings.original
    if model is None and not wanted.model:
        raise ConfigError('Which model is to be fitted? Give --model NAME.')
    given = load_original(wanted.model, wanted.initial_checkpoint, wanted.model_kwargs) if model is None else model
    original = adopted(given, wanted.model_kwargs)
    by_name = wanted.model if model is None and not wanted.initial_checkpoint else None
    describe_as(original, proved_description(given, by_name, wanted.license, wanted.base_model))
    return original


def _plan(settings: Settings, accelerator: Accelerator, told: str, original: nn.Module, dry_run: bool) -> Plan:
    chosen = design(original, settings.target, settings.run.seed)
    base = chosen.base
    _check_before_work(settings, original, base)
    images = open_images(settings, base.pretrained_cfg, accelerator)
    if settings.run.output and not dry_run:
        _check_writable(settings.run.output)
    checkpoints = Checkpoints(
        settings.run.output, accelerator, _unchanging(settings, accelerator.mixed_precision, original),
        settings.run.checkpointing_steps)
    checkpoint = checkpoints.open(settings.run.resume) if settings.run.resume else None
    if settings.run.output and not settings.run.resume:
        checkpoints.refuse_those_of_another_run()
    uses: Mapping[str, Use] = {}
    if settings.takes_statistics:
        specs = chosen.specs or specs_from_names(chosen.rounded, base.state, base.name)
        size = data_config_of(base.pretrained_cfg)['input_size']
        uses = find_uses(original, specs, torch.zeros(1, *size))
        if not uses:
            say(accelerator, 'No generated or rounded weight is passed unmodified to a convolution or linear layer, so '
                             'there is no second order.')
    return Plan(settings, accelerator, told, original, chosen, uses, images, checkpoints, checkpoint)


def _check_before_work(settings: Settings, original: nn.Module, base: BaseModel) -> None:
    """Raises SbsError for what would otherwise be found only when a later phase begins."""
    for name in settings.run.report_to:
        if name not in {'all', *(str(getattr(tracker, 'value', tracker)) for tracker in get_available_trackers())}:
            raise SbsError(f'--report-to {name} needs a package that is not installed: pip install {name}')
    input_size = data_config_of(base.pretrained_cfg)['input_size']
    if settings.has_images:
        check_outputs(original, input_size)
    classes = base.pretrained_cfg['num_classes']
    if settings.distils:
        if any(settings.distillation.label_weight) and classes < 2:
            raise SbsError(f'label_weight needs a network with 2 classes or more, and this one has {classes}.')
        if any(settings.distillation.feature_weight):
            feature_modules(original, settings.distillation.feature_modules)
        if sizes := settings.images.train_size:
            check_sizes(original, sizes, input_size)
    if settings.images.data_free == 'inversion':
        batch_norms(original)


def _check_writable(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise SbsError(f"--output '{folder}' cannot be written to: {e}.") from e


def _unchanging(settings: Settings, precision: str | None, original: nn.Module) -> dict[str, Any]:
    """Settings that decide the results of a run, JSON-ready."""
    found = {name: value for name, value in flat(settings).items() if name not in MAY_CHANGE}
    for name in PATHS:
        if value := found.get(name):
            paths = [value] if isinstance(value, str) else value
            found[name] = [os.path.basename(os.path.abspath(path)) for path in paths]
    digest = hashlib.sha256()
    for tensor in original.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {**found, 'mixed_precision': precision, 'weights of the original': digest.hexdigest()[:16]}
