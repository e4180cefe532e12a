"""Between reconstruction and distillation: fit the kernels so that predictions change least, with no image in the
loop."""
import dataclasses
import math
from typing import Iterator, List, Tuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.func import functional_call
from tqdm.auto import tqdm

from timm_sbs.errors import SbsError
from timm_sbs.generate import TokenGroup
from timm_sbs.targets import from_kernels, to_kernels
from timm_sbs.training.divergence import ExpectedDivergence
from timm_sbs.training.monitor import Monitor
from timm_sbs.training.optimizer import make_optimizer, set_lr
from timm_sbs.training.reconstruction import FULL_RATE_WIDTH
from timm_sbs.training.settings import SecondOrderSettings
from timm_sbs.training.sharing import share, sum_gradients
from timm_sbs.training.weight_generator import WeightGenerator

__all__ = ['second_order']

LOG_INTERVAL = 50  # steps between looks at the loss, each of which waits for the device


def _scaled(gradient: Tensor, accelerator: Accelerator) -> Tensor:
    """As accelerate's backward scales a loss in float16."""
    return accelerator.scaler.scale(gradient) if accelerator.scaler else gradient


class _FilterBatches:
    """Endless batches of whole filters of every layer; each pass takes every filter once, in a new order."""

    def __init__(self, filters: List[int], parts: int, seed: int) -> None:
        self.filters = filters
        self.parts = parts
        self._generator = torch.Generator().manual_seed(seed)

    def starting_at(self, step: int) -> Iterator[List[Tensor]]:
        """Filters of each layer, from a step on, counted from 0. To be called once."""
        done, in_pass = divmod(step, self.parts)
        for _ in range(done):
            self._pass()
        while True:
            yield from list(zip(*self._pass()))[in_pass:]
            in_pass = 0

    def _pass(self) -> List[List[Tensor]]:
        """For each layer its filters in parts, shuffled, for a layer of few filters has none in some of them."""
        layers = []
        for count in self.filters:
            parts = torch.randperm(count, generator=self._generator).tensor_split(self.parts)
            layers.append([parts[i] for i in torch.randperm(self.parts, generator=self._generator)])
        return layers


def _groups(generator: WeightGenerator) -> Iterator[Tuple[int, TokenGroup, List[Tensor]]]:
    """Token groups, each with the places of its layers' kernels: [filters, channels]."""
    for index, group in enumerate(generator.plan.groups):
        parts = group.place_of_kernel.split([spec.num_kernels for spec in group.specs])
        yield index, group, [part.view(spec.num_filters, -1) for part, spec in zip(parts, group.specs)]


def _batch_step(
        generator: WeightGenerator,
        divergence: ExpectedDivergence,
        batch: List[Tensor],
        parts: int,
        accelerator: Accelerator,
) -> Tensor:
    """Gradients of the predictor, and the loss, from some filters of every layer, shared out over the processes."""
    parameters, features = generator.predictor_parameters(), generator.kernel_features(accelerator)
    total = torch.zeros((), device=accelerator.device)
    outputs, gradients = [], []
    layers = iter(batch)
    for index, group, places in _groups(generator):
        mine = [(spec, rows[f], f) for spec, rows, f in (
            (spec, rows, chosen[share(len(chosen), accelerator)])
            for spec, rows, chosen in zip(group.specs, places, layers)) if len(f)]
        if not mine:
            continue
        with accelerator.autocast():
            kernels = functional_call(generator.predictor, parameters, (
                features[index](torch.cat([rows.flatten() for _, rows, _ in mine])), group.output_size)).float()
        derivative = []
        for (spec, rows, filters), part in zip(mine, kernels.detach().split([rows.numel() for _, rows, _ in mine])):
            some = dataclasses.replace(spec, shape=(len(filters), *spec.shape[1:]))
            loss, gradient = divergence(spec.name, from_kernels(part, some), filters.to(part.device))
            total += loss * parts
            derivative.append(to_kernels(_scaled(gradient * parts, accelerator), some))
        outputs.append(kernels)
        gradients.append(torch.cat(derivative))
    if outputs:  # a process may have no filter of a small batch
        torch.autograd.backward(outputs, gradients)
    for parameter in generator.predictor.parameters():
        if parameter.grad is None:  # of a head without a filter in this batch
            parameter.grad = torch.zeros_like(parameter)
    sum_gradients(generator.predictor.parameters(), accelerator)
    return total


def _whole_step(generator: WeightGenerator, divergence: ExpectedDivergence, accelerator: Accelerator) -> Tensor:
    """Gradients of the predictor, and the loss, from all weights."""
    weights = generator.generate(accelerator)
    total = torch.zeros((), device=accelerator.device)
    for name, weight in weights.items():
        loss, gradient = divergence(name, weight)
        weight.grad = _scaled(gradient, accelerator)
        total += loss
    generator.backward(weights, accelerator)
    return total / accelerator.num_processes  # each has the same


def second_order(
        generator: WeightGenerator,
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
        generator: The predictor, trained in place, after reconstruction. With a quantization, rounded in each step.
        divergence: The loss.
        settings: Steps, batch size, optimizer. Predictors wider than 128 get a learning rate of lr * 128 / width.
        accelerator: Devices and processes.
        seed: Of the order of filters.
        monitor: Hears of every step, and restores the state of a run that is resumed.
        name: Of the phase, for the progress bar.

    Raises:
        SbsError: The loss is no longer finite.
    """
    generator.to(accelerator.device)
    groups = generator.plan.groups
    optimizer = accelerator.prepare(make_optimizer(generator.predictor.parameters(), settings))
    rate = min(1., FULL_RATE_WIDTH / generator.predictor.config.width)
    start = monitor.resume()
    parts = 1
    if all(group.fold == 1 for group in groups):
        kernels = sum(spec.num_kernels for group in groups for spec in group.specs)
        parts = math.ceil(kernels / settings.batch_size)
    batches = _FilterBatches(
        [spec.num_filters for group in groups for spec in group.specs], parts, seed).starting_at(start)
    generator.predictor.train()
    with tqdm(total=settings.steps, initial=start, desc=name, unit='step',
              disable=None if accelerator.is_main_process else True) as progress:
        for step in range(start, settings.steps):
            set_lr(optimizer, settings.lr_at(step) * rate)
            optimizer.zero_grad()
            if parts == 1:
                loss = _whole_step(generator, divergence, accelerator)
            else:
                loss = _batch_step(generator, divergence, next(batches), parts, accelerator)
            optimizer.step()
            progress.update()
            done = step + 1
            if done % LOG_INTERVAL == 0 or done == settings.steps:
                value = float(accelerator.reduce(loss, reduction='sum'))
                progress.set_postfix(loss=f'{value:.5f}')
                monitor.log(done, {'loss': value, 'lr': settings.lr_at(step) * rate})
                if not math.isfinite(value):
                    raise SbsError(f'The second-order loss is {value} at step {done}. Lower its learning rate.')
            monitor.step_done(done)
    generator.predictor.eval()
