"""Between reconstruction and distillation: fit the kernels so that predictions change least, with no image in the
loop."""
import dataclasses
import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from timm_sbs.common.distributed import share, sum_gradients
from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.predictor.generator import Generator, TokenGroup
from timm_sbs.predictor.tokens import from_kernels, to_kernels
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.options.settings import SecondOrderSettings
from timm_sbs.training.steps.monitor import Monitor
from timm_sbs.training.steps.optimizer import make_optimizer, set_lr
from timm_sbs.training.steps.reconstruction import FULL_RATE_WIDTH
from timm_sbs.training.steps.two_stage import TwoStageGenerator

__all__ = ['second_order']

LOG_INTERVAL = 50  # steps between looks at the loss, each of which waits for the device


def _scaled(gradient: Tensor, accelerator: Accelerator) -> Tensor:
    """As accelerate's backward scales a loss in float16."""
    return accelerator.scaler.scale(gradient) if accelerator.scaler else gradient


class _FilterBatches:
    """Endless batches of whole filters of every layer; each pass takes every filter once, in a new order."""

    def __init__(self, filters: list[int], parts: int, seed: int, device: torch.device) -> None:
        self.filters = filters
        self.parts = parts
        self.device = device
        self._generator = torch.Generator().manual_seed(seed)

    def starting_at(self, step: int) -> Iterator[tuple[Tensor, ...]]:
        """Filters of each layer, from a step on, counted from 0. To be called once."""
        done, in_pass = divmod(step, self.parts)
        for _ in range(done):
            self._pass()
        while True:
            yield from list(zip(*self._pass()))[in_pass:]
            in_pass = 0

    def _pass(self) -> list[list[Tensor]]:
        """For each layer its filters in parts, shuffled, for a layer of few filters has none in some of them."""
        layers = []
        for count in self.filters:
            parts = torch.randperm(count, generator=self._generator).to(self.device).tensor_split(self.parts)
            layers.append([parts[i] for i in torch.randperm(self.parts, generator=self._generator)])
        return layers


def _groups(two_stage: TwoStageGenerator) -> Iterator[tuple[int, TokenGroup, list[Tensor]]]:
    """Token groups, each with the places of its layers' kernels: [filters, channels]."""
    for index, group in enumerate(two_stage.generator.groups):
        parts = two_stage.place_of_kernel(index).split([spec.num_kernels for spec in group.specs])
        yield index, group, [part.view(spec.num_filters, -1) for part, spec in zip(parts, group.specs)]


def _batch_step(
        two_stage: TwoStageGenerator,
        divergence: ExpectedDivergence,
        batch: tuple[Tensor, ...],
        parts: int,
        accelerator: Accelerator,
) -> Tensor:
    """Gradients of the predictor, and the loss, from some filters of every layer, shared out over the processes."""
    parameters, features = two_stage.predictor_parameters(), two_stage.kernel_features()
    total = torch.zeros((), device=accelerator.device)
    outputs, gradients = [], []
    layers, scales = iter(batch), two_stage.generator.scales
    for index, group, places in _groups(two_stage):
        mine = [(spec, rows[f], f) for spec, rows, f in (
            (spec, rows, chosen[share(len(chosen), accelerator)])
            for spec, rows, chosen in zip(group.specs, places, layers)) if len(f)]
        if not mine:
            continue
        with accelerator.autocast():
            kernels = two_stage.predictor(
                features[index](torch.cat([rows.flatten() for _, rows, _ in mine])), group.output_size, parameters,
            ).float()
        derivative = []
        for (spec, _, filters), part in zip(mine, kernels.detach().split([rows.numel() for _, rows, _ in mine])):
            some = dataclasses.replace(spec, shape=(len(filters), *spec.shape[1:]))
            scale = scales[spec.name]
            loss, gradient = divergence(spec.name, from_kernels(part * scale, some), filters)
            total += loss * parts
            derivative.append(to_kernels(_scaled(gradient * scale * parts, accelerator), some))
        outputs.append(kernels)
        gradients.append(torch.cat(derivative))
    if outputs:  # a process may have no filter of a small batch
        torch.autograd.backward(outputs, gradients)
    for parameter in two_stage.predictor.parameters():
        if parameter.grad is None:  # of a head without a filter in this batch
            parameter.grad = torch.zeros_like(parameter)
    sum_gradients(two_stage.predictor.parameters(), accelerator)
    return total


def _whole_step(two_stage: TwoStageGenerator, divergence: ExpectedDivergence, accelerator: Accelerator) -> Tensor:
    """Gradients of the predictor, and the loss, from all weights."""
    weights = two_stage.generate(accelerator)
    total = torch.zeros((), device=accelerator.device)
    for name, weight in weights.items():
        loss, gradient = divergence(name, weight)
        weight.grad = _scaled(gradient, accelerator)
        total += loss
    two_stage.backward(weights, accelerator)
    return total / accelerator.num_processes  # each has the same


def _filter_parts(generator: Generator, settings: SecondOrderSettings) -> int:
    """In how many steps all filters are taken once."""
    if any(group.fold > 1 for group in generator.groups):
        return 1
    kernels = sum(spec.num_kernels for group in generator.groups for spec in group.specs)
    return math.ceil(kernels / settings.batch_size)


def second_order(
        two_stage: TwoStageGenerator,
        divergence: ExpectedDivergence,
        settings: SecondOrderSettings,
        accelerator: Accelerator,
        seed: int = 0,
        monitor: Monitor = Monitor(),
        name: str = 'second-order',
) -> None:
    """Fit a predictor to the original weights, as far as errors of these change predictions.

    A step takes whole filters of every layer, for errors of one filter's kernels add up. Where layers are folded, a
    filter's kernels lie at places that generate others too, and a step takes all kernels. Several processes share out
    the filters of each batch, or the generation of all kernels.

    Args:
        two_stage: The predictor, trained in place, after reconstruction. With a quantization, rounded in each step.
        divergence: The loss.
        settings: Steps, batch size, optimizer. Predictors wider than 128 get a learning rate of lr * 128 / width.
        accelerator: Devices and processes.
        seed: Of the order of filters.
        monitor: Hears of every step, and restores the state of a run that is resumed.
        name: Of the phase, for the progress bar.

    Raises:
        SbsError: The loss is no longer finite.
    """
    two_stage.to(accelerator.device)
    groups = two_stage.generator.groups
    optimizer = accelerator.prepare(make_optimizer(two_stage.predictor.parameters(), settings))
    rate = min(1., FULL_RATE_WIDTH / two_stage.predictor.config.width)
    start = monitor.resume()
    parts = _filter_parts(two_stage.generator, settings)
    batches = _FilterBatches(
        [spec.num_filters for group in groups for spec in group.specs], parts, seed, accelerator.device,
    ).starting_at(start)
    two_stage.predictor.train()
    with Progress(settings.steps, name, initial=start, accelerator=accelerator) as progress:
        for step in range(start, settings.steps):
            set_lr(optimizer, settings.lr_at(step) * rate)
            optimizer.zero_grad()
            if parts == 1:
                loss = _whole_step(two_stage, divergence, accelerator)
            else:
                loss = _batch_step(two_stage, divergence, next(batches), parts, accelerator)
            optimizer.step()
            progress.update()
            done = step + 1
            if done % LOG_INTERVAL == 0 or done == settings.steps:
                value = float(accelerator.reduce(loss, reduction='sum'))
                progress.show(loss=f'{value:.5f}')
                monitor.log(done, {'loss': value, 'lr': settings.lr_at(step) * rate})
                if not math.isfinite(value):
                    raise SbsError(f'The second-order loss is {value} at step {done}. Lower its learning rate.')
            monitor.step_done(done)
    two_stage.predictor.eval()
