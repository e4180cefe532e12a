"""The plan of a run: which phases, the design, the images, the checkpoint it goes on from, the precision. What is wrong
is found here, before any work."""
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from torch import nn

from timm_sbs.artifact.original import load_original, proved_description
from timm_sbs.common.distributed import decided_once, make_accelerator, processes
from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.common.products import float32_products
from timm_sbs.common.progress import say
from timm_sbs.data.augmentation import check_sizes, data_config_of
from timm_sbs.data.outputs import Outputs, check_outputs, outputs_of
from timm_sbs.data.synthetic import batch_norms
from timm_sbs.predictor.base_model import BaseModel
from timm_sbs.training.checkpoints import Checkpoint, Checkpoints
from timm_sbs.training.design.given_model import adopted
from timm_sbs.training.design.sizing import Design, design
from timm_sbs.training.flat_settings import flat
from timm_sbs.training.images import Images, open_images
from timm_sbs.training.losses.distillation import feature_modules
from timm_sbs.training.losses.weight_uses import Use, find_uses
from timm_sbs.training.settings import Settings

__all__ = ['Plan', 'open_plan', 'settled_precision']

# Settings that may differ between a checkpoint and its resumption, because they change no result.
MAY_CHANGE = {
    'output', 'resume', 'checkpointing_steps', 'report_to', 'push_to_hub', 'hub_private', 'base_model', 'license',
    'workers', 'dataset_download', 'initial_checkpoint', 'mixed_precision'}
PATHS = ('images', 'data_dir', 'class_map')  # known by what they are called, for they may have moved


@dataclass(frozen=True)
class Plan:
    """What is known before the first step.

    Attributes:
        settings: All settings.
        accelerator: Device, processes, precision.
        original: The original model.
        outputs: What its outputs mean.
        design: What is generated or rounded, and by which predictor.
        uses: How the network uses these weights, if there are statistics to collect.
        images: Read, or to be drawn.
        checkpoints: Of the run.
        checkpoint: What it continues from, if it does.
    """
    settings: Settings
    accelerator: Accelerator
    original: nn.Module
    outputs: Outputs
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
def open_plan(settings: Settings, model: nn.Module | None = None) -> Iterator[Plan]:
    """The plan of a run of ``model``, or of the one that the settings name, for a block that carries it out. Writes
    nothing.

    Raises:
        SbsError: Something about the request is wrong.
    """
    for name in ('checkpointing_steps', 'resume'):
        if getattr(settings.run, name) is not None and not settings.run.output:
            raise ConfigError(f'{name} needs a folder to write to: --output (output=...).')
    with float32_products('tf32'):
        accelerator = make_accelerator(
            settled_precision(settings.run.mixed_precision), log_with=list(settings.run.report_to) or None,
            project_dir=settings.run.output or '.')
        try:
            yield _plan(settings, accelerator, _original(settings, model))
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()


def settled_precision(asked: str) -> str:
    """The precision of a run in accelerate's words, the same on all processes.

    Args:
        asked: A precision, or 'auto': what ``accelerate launch`` says, else bfloat16 on devices that have units for it,
            else float16 on GPUs and float32 elsewhere.
    """
    state = processes()

    def choose() -> str:
        launched, on_gpu = os.environ.get('ACCELERATE_MIXED_PRECISION') or 'no', state.device.type == 'cuda'
        if asked != 'auto' or launched != 'no':
            return launched if asked == 'auto' else asked
        if torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else (
                state.device.type == 'cpu' and cpu_has_bf16_units()):
            return 'bf16'
        return 'fp16' if on_gpu else 'no'

    return decided_once(choose, state)


def cpu_has_bf16_units() -> bool:
    """Whether the CPU says that it has AVX512-BF16 or AMX. Others compute in bfloat16 up to hundreds of times more
    slowly than in float32."""
    names = '_is_avx512_bf16_supported', '_is_amx_tile_supported'  # private: torch 2.6 has no others
    return any(getattr(torch.cpu, name, bool)() for name in names)


def _original(settings: Settings, model: nn.Module | None) -> nn.Module:
    """timm's network with the original weights, described by what is proved of these."""
    wanted = settings.original
    if model is None and not wanted.model:
        raise ConfigError('Which model is to be fitted? Give --model NAME.')
    given = load_original(wanted.model, wanted.initial_checkpoint, wanted.model_kwargs) if model is None else model
    by_name = wanted.model if model is None and not wanted.initial_checkpoint else None
    original = adopted(given, wanted.model_kwargs)
    # By setattr, for torch declares all attributes of a module to be tensors or modules.
    described = proved_description(given, by_name, wanted.license, wanted.base_model)
    setattr(original, 'pretrained_cfg', described)  # noqa: B010
    return original


def _plan(settings: Settings, accelerator: Accelerator, original: nn.Module) -> Plan:
    chosen = design(original, settings.target, settings.run.seed)
    base, outputs = chosen.base, outputs_of(original, settings.original.task)
    _check_before_work(settings, original, base)
    images = open_images(settings, base.pretrained_cfg, accelerator)
    checkpoints = Checkpoints(
        settings.run.output, accelerator, _unchanging(settings, accelerator.mixed_precision, original),
        settings.run.checkpointing_steps)
    checkpoint = checkpoints.open(settings.run.resume) if settings.run.output else None
    uses: Mapping[str, Use] = {}
    if settings.takes_statistics:
        size = data_config_of(base.pretrained_cfg)['input_size']
        uses = find_uses(original, chosen.weights, torch.zeros(1, *size))
        if not uses:
            say(accelerator, 'No generated or rounded weight is passed unmodified to a convolution or linear layer, so '
                             'there is no second order.')
    return Plan(settings, accelerator, original, outputs, chosen, uses, images, checkpoints, checkpoint)


def _check_before_work(settings: Settings, original: nn.Module, base: BaseModel) -> None:
    """Raises SbsError for what would otherwise be found only when a later phase begins."""
    for name in settings.run.report_to:
        if name not in {'all', *(str(getattr(tracker, 'value', tracker)) for tracker in get_available_trackers())}:
            raise SbsError(f'--report-to {name} needs a package that is not installed: pip install {name}')
    input_size = data_config_of(base.pretrained_cfg)['input_size']
    if settings.has_images:
        check_outputs(original, input_size)
    if settings.distils:
        if settings.distillation.feature_weight:
            feature_modules(original)
        if sizes := settings.images.train_size:
            check_sizes(original, sizes, input_size)
    if settings.images.data_free:
        batch_norms(original)


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
