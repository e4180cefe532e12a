"""How long the phases of a run will take, from some steps of each on this machine."""
import copy
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence, Sized

import torch
from timm.data import resolve_data_config
from torch import nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.config import OrderingConfig
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.progress import silence
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.batches import SampleBatches, kept_random_states
from timm_sbs.data.image_size import size_at
from timm_sbs.predictor.ordering import permutation_shapes
from timm_sbs.predictor.tokens import WeightSpec
from timm_sbs.training.design.budget import TRIAL_STEPS
from timm_sbs.training.design.forecast import random_orderings
from timm_sbs.training.design.sizing import start_artifact
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.losses.weight_uses import Use
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.run.image_phase import with_phase
from timm_sbs.training.run.phases import outputs_are_fixed
from timm_sbs.training.run.reading_forecast import ReadingForecast
from timm_sbs.training.run.rounding_forecast import SEARCHES, rounding_seconds
from timm_sbs.training.run.start import Start
from timm_sbs.training.run.statistics_sample import (
    empty_statistics,
    look_operations,
    product_rate,
    some_uses,
    step_operations,
)
from timm_sbs.training.run.step_timer import AlikeImages, StepTimer, StepTimes, time_steps
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.generated_model import GeneratedModel
from timm_sbs.training.steps.reconstruction import reconstruct
from timm_sbs.training.steps.second_order import filter_parts, second_order
from timm_sbs.training.steps.two_stage import TwoStageGenerator

__all__ = ['forecast_seconds', 'ordering_seconds', 'usual_height']

MANY_STEPS = 1000  # more than are timed
COMPARISONS = 2  # at the end of second order, of all weights; each takes about as long as a step
SAMPLE_KERNELS, SAMPLE_TIMES = 4096, 3  # kernels whose path is timed, and how often
# A path through n kernels takes time in proportion to n, and to n ** 1.2 where caches no longer hold them: less in
# ResNet-18, where kernels are alike, and a little more in ResNet-50 with random ones.
LONG_PATH_EXPONENT = 0.2


def forecast_seconds(start: Start) -> dict[str, float]:
    """Seconds of each phase of a run, by its name, with the looks at held-out images that are part of it.

    What is done once in a phase and takes as long as some steps, such as writing artifacts, is not counted. All
    processes have to call this; the main one's clock counts.
    """
    with silence(), kept_random_states():
        return _Forecast(start).phases()


class _Forecast:
    """Times the phases of one run, from the state before its first step."""

    def __init__(self, start: Start) -> None:
        self.settings, self.accelerator, self.original = start.settings, start.accelerator, start.original
        self.start, self.specs = start, start.design.specs
        self.reading = ReadingForecast(start.settings.data.readers, start.accelerator)
        ordering = start.design.generator.ordering
        self.artifact = start.source or start_artifact(
            start.design, random_orderings(self.specs, ordering), start.original, seed=0)
        pretrained_cfg = dict(self.artifact.base.pretrained_cfg)
        self.image_shape = resolve_data_config(pretrained_cfg=pretrained_cfg)['input_size']
        self.original.to(self.accelerator.device)

    def phases(self) -> dict[str, float]:
        settings, seconds = self.settings, {}
        if self.specs and not self.start.source:
            ordering = self.start.design.generator.ordering
            seconds['ordering'] = decided_once(
                lambda: ordering_seconds(self.original, self.specs, ordering), self.accelerator)
        fit = StepTimes(0., {1: 0.})  # of the last phase without images
        if self.specs and (settings.reconstruction.steps or self.start.trials):
            fit = self._reconstruction()
        if self.specs and self.start.trials:
            seconds['search'] = self.start.trials * (fit.setup + TRIAL_STEPS * fit.of())
        if settings.reconstruction.steps:
            seconds['reconstruction'] = fit.setup + settings.reconstruction.steps * fit.of()
        if settings.takes_statistics:
            seconds['statistics'] = self._statistics_seconds()
        if self.start.rounds_originals:
            seconds['rounding'] = self._rounding_seconds()
        if settings.takes_statistics and self.specs:
            fit = self._second_order()
            seconds['second-order'] = fit.setup + (settings.second_order.steps + COMPARISONS) * fit.of()
        if settings.distils:
            seconds['distillation'] = self._distillation_seconds(self.artifact.quantized(None), settings.distillation)
        if settings.quantizes and settings.quantization.steps:
            if settings.rounds_on_images:
                phase = with_phase(settings.distillation, settings.quantization)
                seconds['quantization'] = self._distillation_seconds(self.artifact, phase)
            else:
                seconds['quantization'] = settings.quantization.steps * fit.of()
        if settings.quantizes and settings.takes_statistics and self.specs and not settings.quantization.layer_bits:
            layers = len(self.artifact.generator.predictor.trunk) + len(self.artifact.generator.predictor.heads)
            seconds['quantization'] = seconds.get('quantization', 0.) + layers * fit.of()  # whose bits are divided
        if held_out := self.start.images.held_out:
            once, each = self._looking_seconds(held_out.batches.dataset)
            for name, times in self._looks().items():
                seconds[name] = seconds.get(name, 0.) + once + times * each
                once = 0.
        if validation := self.start.images.validation:
            once, each = self._looking_seconds(validation.dataset, self.accelerator.num_processes, networks=2)
            seconds['validation'] = once + each
        return seconds

    def _reconstruction(self) -> StepTimes:
        phase = dataclasses.replace(self.settings.reconstruction, steps=MANY_STEPS)
        artifact, state = self.artifact, self.original.state_dict()
        return time_steps(lambda timer: reconstruct(
            artifact.generator, state, phase, artifact.storage, accelerator=self.accelerator, monitor=timer),
            self.accelerator)

    def _statistics_seconds(self) -> float:
        uses, sample = some_uses(self.start.uses), self.start.images.sample
        count = sample[1] if sample else self.settings.second_order.images
        mine = math.ceil(count / self.accelerator.num_processes)
        batch = min(mine, self.settings.data.batch_size)

        def look(timer: StepTimer) -> None:
            batches = (images for images, _, _ in AlikeImages(timer, self.image_shape).watched())
            collect_statistics(self.original, uses, batches, batch, self.accelerator)

        each = time_steps(look, self.accelerator, most=batch).of(batch) / batch
        each += look_operations(self.original, self._other_uses(uses)) * self.seconds_per_operation
        reading = self.reading.of(sample and getattr(sample[0], 'dataset', None))
        return mine * self.reading.beside(each, reading.each)

    def _rounding_seconds(self) -> float:
        start, device = self.start, self.accelerator.device
        searches = SEARCHES if self.settings.quantization.max_bytes is not None else 1
        each = self.seconds_per_operation if start.uses else 0.
        return searches * decided_once(
            lambda: rounding_seconds(self.original, start.design.rounded, start.uses, each, device), self.accelerator)

    def _second_order(self) -> StepTimes:
        uses, device = some_uses(self.start.uses), self.accelerator.device
        divergence = ExpectedDivergence(
            self.specs, self.original.state_dict(), uses, empty_statistics(self.original, uses, device),
            self.settings.second_order.damping)
        phase = dataclasses.replace(self.settings.second_order, steps=MANY_STEPS)
        two_stage = TwoStageGenerator(self.artifact.generator)
        times = time_steps(
            lambda timer: second_order(two_stage, divergence, phase, self.accelerator, monitor=timer), self.accelerator)
        parts = filter_parts(self.artifact.generator, self.settings.second_order)
        others = step_operations(self.original, self._other_uses(uses)) / parts * self.seconds_per_operation
        return StepTimes(times.setup, {1: times.of() + others})

    def _other_uses(self, some: Mapping[str, Use]) -> dict[str, Use]:
        return {name: use for name, use in self.start.uses.items() if name not in some}

    @functools.cached_property
    def seconds_per_operation(self) -> float:
        """Of products with the largest second moments."""
        size = max(use.size for use in self.start.uses.values())
        device = self.accelerator.device
        return decided_once(lambda: 1 / product_rate(size, device), self.accelerator)

    def _distillation_seconds(self, artifact: Artifact, settings: DistillationSettings) -> float:
        """Steps on random images, those of most runs beside the reading of real ones."""
        height = usual_height(settings)
        phase = dataclasses.replace(
            settings, steps=MANY_STEPS, grad_accum_steps=1, train_size=None if height is None else (height, height))
        student = GeneratedModel(
            copy.deepcopy(artifact.generator), copy.deepcopy(self.original), artifact.storage, phase.train_kept,
            artifact.rounded, artifact.steps).to(self.accelerator.device)
        student.kernel_features()  # a first step would take twice as long with them
        train, once, outputs = self.start.images.train, 0., None
        reading = self.reading.of(train and train.dataset)
        if isinstance(train, SampleBatches) and outputs_are_fixed(self.settings):
            once = len(train.dataset) / self.accelerator.num_processes * self.reading.beside(self.forward, reading.each)
            outputs = self.original(torch.zeros(1, *self.image_shape, device=self.accelerator.device))
        times = time_steps(
            lambda timer: distill(student, self.original, AlikeImages(timer, self.image_shape), phase,
                                  self.accelerator, timer, outputs),
            self.accelerator, fewest=2, most=self.settings.data.batch_size, growth=8)
        images = self.settings.data.batch_size * settings.grad_accum_steps
        step = self.reading.beside(times.of(images), images * reading.each)
        return reading.once + once + times.setup + settings.steps * step

    @functools.cached_property
    def forward(self) -> float:
        """Seconds of the original on one image of a batch."""
        batch = self.settings.data.batch_size

        def look(timer: StepTimer) -> None:
            batches = AlikeImages(timer, self.image_shape).watched()
            evaluate(self.original, ((images, labels) for images, labels, _ in batches), quiet=True)

        return time_steps(look, self.accelerator, most=batch, growth=16).of(batch) / batch

    def _looking_seconds(self, dataset: object, processes: int = 1, networks: int = 1) -> tuple[float, float]:
        """Of the first look at images that so many processes share, beside what each takes, and of each."""
        if not isinstance(dataset, Sized):
            return 0., 0.
        reading, mine = self.reading.of(dataset), math.ceil(len(dataset) / processes)
        return reading.once, mine * self.reading.beside(networks * self.forward, reading.each)

    def _looks(self) -> dict[str, int]:
        """How often each phase looks at the held-out images, the original included, at the first look."""
        settings = self.settings
        found = {'reconstruction': int(self.start.fits_weights and settings.takes_statistics),
                 'rounding': int(self.start.rounds_originals)}
        if settings.takes_statistics and self.specs:
            found['second-order'] = int(settings.quantizes and not settings.distils)
        interval = settings.distillation.eval_interval
        if settings.distils or not settings.quantizes:
            steps = settings.distils * settings.distillation.steps
            found['distillation' if steps else 'held-out images'] = 1 + math.ceil(steps / interval)
        if settings.quantizes:
            steps = settings.rounds_on_images * settings.quantization.steps
            found['quantization'] = 1 + math.ceil(steps / interval)
        found = {phase: times for phase, times in found.items() if times}
        found[next(iter(found))] += 1
        return found


def usual_height(settings: DistillationSettings) -> int | None:
    """The height of images of which a step takes about the mean time of all; None: the original's."""
    if settings.train_size is None:
        return None
    heights = [size_at(settings.train_size, step, settings.steps) for step in range(settings.steps)]
    mean = statistics.mean(height ** 2 for height in heights)
    return min(set(heights), key=lambda height: abs(height ** 2 - mean))


def ordering_seconds(original: nn.Module, specs: Sequence[WeightSpec], ordering: OrderingConfig) -> float:
    """Of all orderings, from those of some filters of one layer for each size of kernels."""
    from timm_sbs.training.design.paths import find_permutations  # needs the 'train' extra

    if ordering.order_over == 'nothing':
        return 0.
    layers: list[float] = []
    for size in sorted({spec.token_size for spec in specs}):
        alike = [spec for spec in specs if spec.token_size == size]
        spec = min(alike, key=lambda spec: abs(math.log(spec.num_kernels / SAMPLE_KERNELS)))
        filters = min(spec.num_filters, max(2, SAMPLE_KERNELS // spec.num_channels))
        part = dataclasses.replace(spec, shape=(filters, *spec.shape[1:]))
        weight = original.get_parameter(spec.name)[:filters].cpu()
        times = []
        for _ in range(SAMPLE_TIMES):  # the first compiles
            began = time.perf_counter()
            find_permutations(weight, part, ordering)
            times.append(time.perf_counter() - began)
        each = statistics.median(times[1:]) / part.num_kernels
        for other in alike:
            longest = max(n for _, n in permutation_shapes(other, ordering))
            layers.append(each * other.num_kernels * max(1., longest / SAMPLE_KERNELS) ** LONG_PATH_EXPONENT)
    return max(*layers, sum(layers) / torch.get_num_threads(), 0.)
