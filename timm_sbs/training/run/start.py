"""Everything that a run does before its first step, so that what is wrong is found at once."""
import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import read_config
from timm_sbs.artifact.original import describe_original
from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import say
from timm_sbs.data.image_size import check_sizes
from timm_sbs.data.outputs import check_outputs
from timm_sbs.data.pictures import data_config_of
from timm_sbs.data.synthetic import batch_norms
from timm_sbs.predictor.base_model import BaseModel, pretrained_cfg_of
from timm_sbs.predictor.ordering import fold_of
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import Design, design, start_artifact
from timm_sbs.training.losses.feature_maps import feature_modules
from timm_sbs.training.losses.weight_uses import Use
from timm_sbs.training.options.run_settings import Settings
from timm_sbs.training.options.settings import WHOLE_STEPS
from timm_sbs.training.run.calibration import trace_uses
from timm_sbs.training.run.checkpoints import Checkpoint, Checkpoints
from timm_sbs.training.run.environment import environment
from timm_sbs.training.run.images import Images, open_images
from timm_sbs.training.run.output import prepare_output
from timm_sbs.training.run.resume import folder_name, unchanging_settings

__all__ = ['Start', 'open_start', 'first_results', 'start_trackers', 'ordered_artifact']


@dataclass(frozen=True)
class Start:
    """What is known before the first step.

    Attributes:
        settings: All settings, with what was left to the network filled in.
        accelerator: Devices, processes, precision.
        told: That precision, and why it was chosen, in a sentence for the user.
        original: The original model.
        source: The artifact to start from, if there is one.
        design: What is generated, and by which predictor.
        uses: How the network uses the generated weights, or the rounded ones, if there are statistics to take.
        images: Read, or to be drawn.
        checkpoints: Of the run.
        checkpoint: What it goes on from, if it does.
    """
    settings: Settings
    accelerator: Accelerator
    told: str
    original: nn.Module
    source: Artifact | None
    design: Design
    uses: Mapping[str, Use]
    images: Images
    checkpoints: Checkpoints
    checkpoint: Checkpoint | None

    @property
    def fits_weights(self) -> bool:
        """Whether a predictor is fitted to the weights themselves, if only to their scale."""
        return bool(self.design.specs) and bool(self.settings.reconstruction.steps or not self.source)

    @property
    def rounds_originals(self) -> bool:
        """Whether the original's own weights are rounded before any step on images: with what these do, if there are
        any. Those of an artifact to start from are rounded already."""
        return not (self.design.specs or self.source) and bool(self.uses or not self.settings.trains_on_images)

    @property
    def choices(self) -> dict[str, Any]:
        """What a resumed run keeps: threads, for last bits depend on them."""
        return {'threads': torch.get_num_threads()}


def open_start(
        args: argparse.Namespace,
        settings: Settings,
        accelerator: Accelerator,
        told: str,
        original: nn.Module,
        source: Artifact | None,
) -> Start:
    """Choose the design, and open images and checkpoints.

    Raises:
        SbsError: Something about the request is wrong.
    """
    base = source.base if source else describe_original(original)
    _check_before_work(args, settings, original, base)
    images = open_images(settings, base.pretrained_cfg, accelerator, args.seed)
    if not args.dry_run:
        prepare_output(args.output, 0, 0)
    checkpoints = _open_checkpoints(args, accelerator, original)
    checkpoint = checkpoints.open(args.resume) if args.resume else None
    if source:
        config = source.generator.config
        chosen = Design(base, source.generator.specs, config, source.storage, tuple(source.rounded))
    else:
        bits = settings.quantization.bits
        chosen = design(original, args.pct, bits=bits, max_bytes=args.bytes, **settings.predictor.arguments(bits))
        settings = settings.with_bits(chosen.bits)
    if not chosen.specs:
        settings = settings.without_predictor()
    if source and not chosen.specs:
        settings = settings.with_second_order_steps(0)  # its weights are rounded already
        if not settings.trains_on_images and (args.bits is not None or args.bytes is not None):
            raise SbsError(
                'All weights of the artifact to start from are rounded; without images they cannot take fewer bits. '
                'Give images, or round the original anew, without --start-from.')
    uses: Mapping[str, Use] = {}
    if settings.takes_statistics:
        weights = chosen.specs or specs_from_names(chosen.rounded, base.state, base.name)
        uses = trace_uses(original, chosen.base.pretrained_cfg, weights)
        settings = _with_second_order(args, settings, chosen, uses, accelerator)
    return Start(settings, accelerator, told, original, source, chosen, uses, images, checkpoints, checkpoint)


def _open_checkpoints(args: argparse.Namespace, accelerator: Accelerator, original: nn.Module) -> Checkpoints:
    """Raises SbsError where checkpoints of another run would be in the way."""
    checkpoints = Checkpoints(
        Path(args.output), accelerator, unchanging_settings(
            args, accelerator.mixed_precision, original, read_config(args.start_from)[0].weights_sha256
            if args.start_from else None),
        args.checkpointing_steps, args.checkpoints_total_limit)
    if not args.resume:
        checkpoints.refuse_those_of_another_run()
    return checkpoints


def _with_second_order(
        args: argparse.Namespace,
        settings: Settings,
        chosen: Design,
        uses: Mapping[str, Use],
        accelerator: Accelerator,
) -> Settings:
    """The settings with the steps that the second-order phase takes for this network."""
    if not chosen.specs:  # rounding by second order has no steps
        return settings
    if not uses:
        say(accelerator, 'No generated weight is used as it is by a convolution or linear layer, so there is no '
                         'second-order phase.')
        return settings.with_second_order_steps(0)
    if any(fold_of(spec, chosen.generator.ordering) > 1 for spec in chosen.specs):
        if args.second_order_steps is None:
            settings = settings.with_second_order_steps(WHOLE_STEPS)
        if args.quantization_steps is None and not settings.rounds_on_images:
            settings = dataclasses.replace(
                settings, quantization=dataclasses.replace(settings.quantization, steps=WHOLE_STEPS))
    return settings


def _check_before_work(args: argparse.Namespace, settings: Settings, original: nn.Module, base: BaseModel) -> None:
    """Raises SbsError for what would otherwise be found only when a later phase begins."""
    for name in args.report_to:
        if name not in {'all', *(str(getattr(tracker, 'value', tracker)) for tracker in get_available_trackers())}:
            raise SbsError(f'--report-to {name} needs a package that is not installed: pip install {name}')
    input_size = data_config_of(base.pretrained_cfg)['input_size']
    if settings.has_images:
        check_outputs(original, input_size)
    classes = base.pretrained_cfg['num_classes']
    if settings.trains_on_images and any(settings.distillation.label_weight) and classes < 2:
        raise SbsError(f'--label-weight needs a network with 2 classes or more, and this one has {classes}.')
    if settings.trains_on_images and any(settings.distillation.feature_weight):
        feature_modules(original, settings.distillation.feature_modules)
    sizes = settings.distillation.train_size
    if settings.trains_on_images and sizes:
        check_sizes(original, sizes, input_size)
    if settings.data_free == 'inversion':
        batch_norms(original)


def first_results(args: argparse.Namespace, start: Start) -> dict[str, Any]:
    """How the results of a run come about, as they will stand in config.json before anything is measured."""
    accelerator, bits = start.accelerator, start.settings.quantization.bits
    return {
        'seed': args.seed, 'reconstruction_steps': start.settings.reconstruction.steps,
        **({'bits': bits} if bits is not None and (start.design.specs or args.bytes is None) else {}),
        **({'max_bytes': args.bytes} if args.bytes is not None else {}),
        'mixed_precision': accelerator.mixed_precision, 'predictor_parameters': start.design.num_parameters,
        'original_parameters': sum(p.numel() for p in start.original.parameters()),
        **({'data_free': args.data_free} if args.data_free else {}),
        **_provenance(args, start.original),
        **({'started_from': dict(start.source.results)} if start.source else {}),
        **environment(accelerator.device, accelerator.num_processes)}


def _provenance(args: argparse.Namespace, original: nn.Module) -> dict[str, str]:
    """What a card says of the original weights and of the images, where it is known."""
    known = {}
    hub_id = pretrained_cfg_of(original).get('hf_hub_id')
    if hub_id:
        known['original_hub_id'] = hub_id
    dataset = args.hub_dataset or args.dataset.partition('/')[2]
    if dataset:
        known['dataset'] = dataset
    if args.unlabelled_dir:
        known['unlabelled'] = ', '.join(map(folder_name, args.unlabelled_dir))
    return known


def start_trackers(args: argparse.Namespace, accelerator: Accelerator) -> None:
    """Tell accelerate's trackers of the run."""
    accelerator.init_trackers('timm_sbs', config={
        name: value if isinstance(value, (int, float, str)) else str(value) for name, value in vars(args).items()})


def ordered_artifact(start: Start, seed: int) -> Artifact:
    """A fresh predictor over orderings that are found once in a run, however often it is resumed."""
    specs = start.design.specs

    def find() -> dict[str, Tensor]:
        permutations = find_orderings(
            start.original, specs, start.design.generator.ordering, start.accelerator)
        return {f'{layer}.{part}': torch.from_numpy(rows)
                for layer, parts in enumerate(permutations) for part, rows in enumerate(parts)}

    found = start.checkpoints.load_or_compute('orderings', find)
    parts = [sum(name.startswith(f'{layer}.') for name in found) for layer in range(len(specs))]
    permutations = [
        tuple(found[f'{layer}.{part}'].numpy() for part in range(count)) for layer, count in enumerate(parts)]
    return start_artifact(start.design, permutations, start.original, seed).quantized(None)
