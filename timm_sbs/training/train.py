"""A run: carries out the phases of the plan in order, measures the artifact on validation images, and uploads it."""
import dataclasses
import platform
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.describe import lost_function
from timm_sbs.artifact.files import CONFIG_NAME
from timm_sbs.artifact.hub import create_repository
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.memory import freed_memory_kept
from timm_sbs.common.progress import say, warn
from timm_sbs.common.version import __version__
from timm_sbs.predictor.pretrained_cfg import pretrained_cfg_of
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import start_artifact
from timm_sbs.training.flat_settings import flat
from timm_sbs.training.images import Images, draw_images, statistics_images
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics, collect_statistics
from timm_sbs.training.phases.distillation import distill
from timm_sbs.training.phases.recalibration import RECALIBRATION_IMAGES, recalibrated
from timm_sbs.training.phases.reconstruction import reconstruct
from timm_sbs.training.phases.rounding import ByteBudget, quantize_predictor, round_original
from timm_sbs.training.phases.second_order import fit_second_order
from timm_sbs.training.plan import Plan, open_plan
from timm_sbs.training.run import Run
from timm_sbs.training.settings import Settings

__all__ = ['train']

QUANTIZED_LR = 5e-4  # of phases that go on with a quantized predictor
PRECISIONS = {'no': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}  # by accelerate's words


def train(settings: Settings, model: nn.Module | None = None) -> Artifact:
    """Carry out a run of ``model``, or of the one that the settings name: the best artifact, as a reader has it.

    Raises:
        SbsError: Something about the request is wrong; nothing half-written is left.
    """
    with freed_memory_kept(), open_plan(settings, model) as plan:
        return _Training(plan).carry_out()


class _Training:
    """The phases of a run, one method each, from artifact to artifact."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.settings, self.accelerator = plan, plan.settings, plan.accelerator
        self.original = plan.original
        self.run: Run
        self.state = {name: tensor.detach() for name, tensor in plan.original.state_dict().items()}

    def carry_out(self) -> Artifact:
        plan, settings, accelerator = self.plan, self.settings, self.accelerator
        if repository := settings.run.push_to_hub:
            decided_once(lambda: create_repository(repository, settings.run.hub_private), accelerator)
        accelerator.init_trackers('timm_sbs', config={name: str(value) for name, value in flat(settings).items()})
        for sentence in _announcements(plan):
            say(accelerator, sentence)
        self.run = Run(plan, first_results(plan))
        self._run_phases()
        artifact = self._validated(self.run.best)
        if warning := lost_function(artifact.results):
            warn(accelerator, warning)
        if (most := settings.target.max_bytes) and (excess := artifact.ledger()['total'] - most) > 0:
            warn(accelerator, f'The artifact is {excess:,} bytes larger than --bytes asks for.')
        if output := settings.run.output:
            if accelerator.is_main_process:
                artifact.save(output)
            accelerator.wait_for_everyone()
            say(accelerator, f"wrote {output}; load it with timm.create_model('local-dir:{output}', pretrained=True)")
        if repository:
            address = decided_once(lambda: artifact.push_to_hub(repository, settings.run.hub_private), accelerator)
            say(accelerator, f'uploaded to {address}')
        return artifact.as_stored()

    def _run_phases(self) -> None:
        """All phases that are not yet done."""
        run, checkpoint, done = self.run, self.plan.checkpoint, 0
        artifact = self._start_artifact().with_results(run.results)
        if checkpoint:
            artifact, done = checkpoint.artifact(artifact), checkpoint.progress['phase_index']
            phase, step = self.plan.phases[done], checkpoint.progress['step']
            of = f' of {getattr(self.settings, phase).steps:,}' if phase != 'rounding' else ''
            say(self.accelerator, f"continuing from {checkpoint.folder} ({phase.replace('_', ' ')}, step {step:,}{of})")
        artifact.generator.to(self.accelerator.device)
        for index, name in enumerate(self.plan.phases[done:], done):
            run.begin(name, index, artifact)
            artifact = getattr(self, f'_{name}')(artifact)
            artifact = artifact.with_results(dict(run.results))
            if run.steps:  # of rounding: the last phase once more, with everything rounded
                run.results[f"{'quantization' if name == 'rounding' else name}_steps"] = run.steps
            if name == 'rounding':
                run.forget_best()
            if name != 'distillation':  # which measures by itself
                run.consider(artifact, f"after {name.replace('_', ' ')}", fits=self._fits(artifact), step=run.steps)

    def _reconstruction(self, artifact: Artifact) -> Artifact:
        found = reconstruct(artifact, self.state, self.settings.reconstruction, self.run)
        say(self.accelerator, f"reconstruction: error {self.run.results['reconstruction_error']:.4f}")
        return found

    def _second_order(self, artifact: Artifact) -> Artifact:
        assert self.divergence
        return self._recalibrated(
            fit_second_order(artifact, self.state, self.divergence, self.settings.second_order, self.run))

    def _rounding(self, artifact: Artifact) -> Artifact:
        return self._recalibrated(self._rounded(artifact))

    def _recalibrated(self, artifact: Artifact) -> Artifact:
        if not self.divergence:
            return artifact
        batches, _ = statistics_images(self.images, RECALIBRATION_IMAGES, self.accelerator)
        found = recalibrated(artifact, self.original, batches, self.run)
        return found if found is artifact or self._fits(found) else artifact

    def _rounded(self, artifact: Artifact) -> Artifact:
        settings, target, divergence = self.settings, self.settings.target, self.divergence
        if self.budget:
            return round_original(artifact, self.state, self.budget, divergence, self.run)
        artifact = quantize_predictor(artifact, target.bits or 0., target.kept_bits, divergence, self.run)
        if settings.distils:
            return artifact
        if not divergence:
            reconstruction = dataclasses.replace(settings.reconstruction, lr=QUANTIZED_LR)
            return reconstruct(artifact, self.state, reconstruction, self.run, 'quantization')
        second_order = dataclasses.replace(settings.second_order, lr=QUANTIZED_LR)
        return fit_second_order(artifact, self.state, divergence, second_order, self.run, 'quantization')

    def _distillation(self, artifact: Artifact) -> Artifact:
        settings, images = self.settings, self.images.train
        assert images, 'a run without images does not distil'
        images = dataclasses.replace(images, mixup=settings.images.mixup, sizes=settings.images.train_size,
                                     count=settings.distillation.steps)
        return distill(artifact, self.original, images, settings.distillation, self.run, self.budget,
                       settings.target.bits, settings.follows_statistics)

    @cached_property
    def images(self) -> Images:
        """The images that the run reads, and those that it draws."""
        plan = self.plan
        if not self.settings.images.data_free:
            return plan.images
        return dataclasses.replace(plan.images, train=draw_images(
            self.settings, self.original, plan.design.base.pretrained_cfg, self.accelerator, plan.checkpoints,
            plan.outputs))

    @cached_property
    def statistics(self) -> dict[str, LayerStatistics]:
        """Of activations, on the device. Collected once, however often the run is resumed."""
        device = self.accelerator.device
        self.original.to(device)
        self.run.look_at(self.images)

        def collect() -> tuple[dict[str, dict[str, Tensor]], int]:
            batches, count = statistics_images(
                self.images, self.settings.second_order.statistics_images, self.accelerator)
            found, seen = collect_statistics(
                self.original, self.plan.uses, batches, count, self.accelerator, self.settings.run.seed,
                self.plan.outputs)
            return {name: vars(layer) for name, layer in found.items()}, seen

        layers, self.run.results['statistics_images'] = self.plan.checkpoints.load_or_compute('statistics', collect)
        return {name: LayerStatistics(**{part: tensor.to(device) for part, tensor in parts.items()})
                for name, parts in layers.items()}

    @cached_property
    def divergence(self) -> ExpectedDivergence | None:
        """The second-order loss of the generated or rounded weights, if there are statistics."""
        if not self.plan.uses:
            return None
        weights = {name: self.state[name] for name in self.plan.design.weights}
        found = ExpectedDivergence(
            weights, self.plan.uses, self.statistics, self.settings.second_order.damping)
        if names := found.without_statistics:
            say(self.accelerator, f"{len(names)} weight(s), such as '{names[0]}', have no activation statistics; using "
                                  f'squared error')
        return found

    @cached_property
    def budget(self) -> ByteBudget | None:
        """Bytes of both files, if all weights are rounded into so many."""
        target = self.settings.target
        return None if target.max_bytes is None else ByteBudget(target.max_bytes)

    def _fits(self, artifact: Artifact) -> bool:
        return self.budget is None or self.budget.excess(artifact) <= 0

    def _start_artifact(self) -> Artifact:
        """A fresh predictor over orderings that are found once in a run, however often it is resumed."""
        design = self.plan.design

        def find() -> list[list[Tensor]]:
            permutations = decided_once(
                lambda: find_orderings(self.original, design.specs, design.generator.ordering), self.accelerator)
            return [[torch.from_numpy(rows) for rows in parts] for parts in permutations]

        found = self.plan.checkpoints.load_or_compute('orderings', find) if design.specs else []
        permutations = [tuple(rows.numpy() for rows in parts) for parts in found]
        artifact = start_artifact(design, permutations, self.original, self.settings.run.seed)
        return artifact if self.settings.target.rounds else artifact.quantized(None)

    def _validated(self, artifact: Artifact | None) -> Artifact:
        """The artifact with its accuracy on validation images, which choose nothing, and are looked at once."""
        assert artifact, 'every run considers an artifact'
        accelerator = self.accelerator
        if not (validation := self.plan.images.validation):
            return artifact
        found = self.run.comparison(validation, 'validation').measure(artifact.as_stored().state_dict())
        figures = {'top1': found.top1, 'original_top1': found.original_top1, 'agreement': found.agreement}
        measured = {name: round(value, 4) for name, value in figures.items() if value is not None}
        accelerator.log({f'validation/{name}': value for name, value in measured.items()})
        self.run.add_row({'phase': 'validation', 'step': 0, 'top1': found.top1})
        accuracy = '' if found.top1 is None else f'top-1 {found.top1:.2f} % (original {found.original_top1:.2f} %), '
        say(accelerator, f'{accuracy}agreement {found.agreement:.2f} % on {found.images:,} validation images')
        return artifact.with_results({**artifact.results, 'images': found.images, **measured})


def _announcements(plan: Plan) -> list[str]:
    """What a run does, before it does it."""
    design, settings, name = plan.design, plan.settings, plan.design.base.name
    total = sum(p.numel() for p in plan.original.parameters())
    precision = plan.accelerator.mixed_precision
    told = [f'computing in {PRECISIONS.get(precision, precision)} on {_hardware(plan.accelerator)}']
    if settings.run.output and not plan.checkpoint and (Path(settings.run.output) / CONFIG_NAME).is_file():
        told.append(f"'{settings.run.output}' holds an artifact, which this run replaces.")
    if not settings.has_images:
        so = 'the predictor is fitted to the weights alone' if design.specs else 'weights are rounded by squared error'
        told.append(f'No images were given: {so}. Pass training images with --images, --data-dir or --dataset, or let '
                    f'--data-free draw them.')
    elif plan.outputs.told:
        told.append(plan.outputs.told)
    if not design.base.pretrained_cfg.get('license'):
        told.append('The licence of the weights is unknown. Name it with --license, and their repository with '
                    '--base-model.')
    if settings.distils:
        held_out = plan.images.held_out
        told.append(
            f'{held_out.count:,} training images are held out; the artifact with the lowest divergence on them is kept.'
            if held_out else 'No training images are held out; the last artifact is kept.')
    if design.specs:
        told.append(f'{name}: {len(design.specs)} weights are generated ({design.num_generated:,} of {total:,} '
                    f'parameters) by a predictor of {design.num_parameters:,} parameters '
                    f'({100 * design.num_parameters / total:.1f} %).')
    else:
        size = sum(plan.original.get_parameter(weight).numel() for weight in design.rounded)
        told.append(f'{name}: {len(design.rounded)} weights are rounded ({size:,} of {total:,} parameters).')
    return told


def first_results(plan: Plan) -> dict[str, Any]:
    """How the results of a run come about, as config.json has them before anything is measured."""
    settings, accelerator, original, images = plan.settings, plan.accelerator, plan.original, plan.settings.images
    found = {
        'seed': settings.run.seed, 'task': plan.outputs.task if settings.has_images else None,
        'bits': settings.target.bits, 'max_bytes': settings.target.max_bytes,
        'mixed_precision': accelerator.mixed_precision, 'predictor_parameters': plan.design.num_parameters,
        'original_parameters': sum(p.numel() for p in original.parameters()),
        'data_free': 'inversion' if images.data_free else None,
        'original_hub_id': pretrained_cfg_of(original).get('hf_hub_id'),
        'dataset': images.dataset.partition('/')[2],
        'versions': {'timm_sbs': __version__, 'timm': timm.__version__, 'torch': torch.__version__},
        'hardware': _hardware(accelerator)}
    return {name: value for name, value in found.items() if value not in (None, '')}


def _hardware(accelerator: Accelerator) -> str:
    device, count, threads = accelerator.device, accelerator.num_processes, torch.get_num_threads()
    found = torch.cuda.get_device_name(device) if device.type == 'cuda' else \
        f"{threads} {device.type.upper()} thread{'s' if threads > 1 else ''}, {platform.machine()}"
    return f'{count} processes, {found}' if count > 1 else found
