"""Reconstruction: fit the predictor to the kernels of the original model. Needs no data."""
import math
from collections.abc import Iterator, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from timm_sbs.codec.quantization import rounded_predictor, stored_predictor
from timm_sbs.common.config import StorageConfig
from timm_sbs.common.distributed import make_accelerator, share, sum_gradients
from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.predictor.generator import Generator, TokenGroup, relative_error
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.steps.features import kernel_features
from timm_sbs.training.steps.monitor import Monitor
from timm_sbs.training.steps.optimizer import make_optimizer, set_lr

__all__ = ['group_targets', 'reconstruct']

# Widest predictor that stands the full learning rate. Wider ones get less in proportion (arXiv 2203.03466): with 2e-2 a
# width of 227 is at an error of 0.81 after 500 steps on ResNet-56, with 1e-2 at 0.44.
FULL_RATE_WIDTH = 128
LOG_INTERVAL = 50  # steps between looks at the loss, each of which waits for the device


def group_targets(generator: Generator, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """What the predictor is to generate, in place order, for each token group: original kernels over their layer's
    scale [N, T]."""
    originals = {name: weights[name].detach().cpu() / scale.cpu().clamp(min=torch.finfo(scale.dtype).tiny)
                 for name, scale in generator.scales.items()}
    return [group.in_place_order(originals) for group in generator.groups]


def _emphases(generator: Generator) -> list[Tensor]:
    """What the squared errors at each place of a token group count: [N, 1]. A layer counts by the square root of its
    values, for those of small layers do more; their mean over all values is 1."""
    sizes = [spec.num_weights for spec in generator.specs]
    mean = sum(math.sqrt(size) for size in sizes) / max(sum(sizes), 1)
    return [torch.cat([torch.full((places, 1), 1 / (mean * math.sqrt(spec.num_weights)))
                       for spec, places in zip(group.specs, group.places)]) for group in generator.groups]


class _ShuffledKernels:
    """Endless batches of kernel indices; each pass visits every kernel once, in a new order.

    The order is drawn on the CPU, alike for all devices, and goes to the device of the run as a whole.
    """

    def __init__(self, num_kernels: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.num_kernels = num_kernels
        self.batch_size = batch_size
        self.device = device
        self._generator = torch.Generator().manual_seed(seed)

    def starting_at(self, step: int) -> Iterator[Tensor]:
        """Batches from a step on, counted from 0. To be called once."""
        skipped, in_pass = divmod(step, math.ceil(self.num_kernels / self.batch_size))
        for _ in range(skipped):
            torch.randperm(self.num_kernels, generator=self._generator)
        while True:
            order = torch.randperm(self.num_kernels, generator=self._generator).to(self.device)
            yield from order.split(self.batch_size)[in_pass:]
            in_pass = 0


def _batch_sizes(groups: tuple[TokenGroup, ...], batch_size: int) -> list[int]:
    """Kernels of each group in one step: in proportion to their number."""
    total = sum(group.num_places for group in groups)
    return [min(group.num_places, math.ceil(batch_size * group.num_places / total)) for group in groups]


def reconstruct(
        generator: Generator,
        weights: Mapping[str, Tensor],
        settings: ReconstructionSettings,
        storage: StorageConfig = StorageConfig(),
        seed: int = 0,
        accelerator: Accelerator | None = None,
        monitor: Monitor = Monitor(),
        name: str = 'reconstruction',
) -> float:
    """Fit a generator to the original weights, by batches of shuffled kernels.

    Several processes share out the kernels of each batch, so that their number changes nothing but the time.

    Args:
        generator: Trained in place, on the accelerator's device.
        weights: Original weights by name.
        settings: Steps, batch size, optimizer. Predictors wider than 128 get a learning rate of lr * 128 / width.
        storage: How the predictor will be stored. With a quantization, training rounds it in each step.
        seed: Of the order of kernels.
        accelerator: Devices and processes; default: this process alone.
        monitor: Hears of every step, and restores the state of a run that is resumed.
        name: Of the phase, for what is told.

    Returns:
        The relative error of the generated weights (:func:`~timm_sbs.predictor.generator.relative_error`), as they are
        stored.

    Raises:
        SbsError: The loss is no longer finite.
    """
    accelerator = accelerator or make_accelerator()
    device = accelerator.device
    generator.to(device)
    predictor, quantization = generator.predictor, storage.quantization
    targets = [targets.to(device) for targets in group_targets(generator, weights)]
    emphases = [emphasis.to(device) for emphasis in _emphases(generator)]
    features = kernel_features(generator)
    values = sum(t.numel() for t in targets)

    optimizer = accelerator.prepare(make_optimizer(predictor.parameters(), settings))
    rate = min(1., FULL_RATE_WIDTH / predictor.config.width)
    start = monitor.resume()
    sizes = _batch_sizes(generator.groups, settings.batch_size)
    streams = [
        _ShuffledKernels(group.num_places, size, seed + index, device).starting_at(start)
        for index, (group, size) in enumerate(zip(generator.groups, sizes))]
    predictor.train()
    with Progress(settings.steps, name, initial=start, accelerator=accelerator) as progress:
        for step in range(start, settings.steps):
            set_lr(optimizer, settings.lr_at(step) * rate)
            loss = torch.zeros((), device=device)
            parameters: dict[str, Tensor] = dict(predictor.named_parameters())
            if quantization:
                parameters = rounded_predictor(parameters, quantization)
            for group, x, y, emphasis, stream in zip(generator.groups, features, targets, emphases, streams):
                batch = next(stream)
                rows = batch[share(len(batch), accelerator)]
                if len(rows):
                    part = (y.numel() / values) * (len(rows) / len(batch))
                    with accelerator.autocast():
                        kernels = predictor(x(rows), group.output_size, parameters).float()
                    loss = loss + part * (emphasis[rows] * (kernels - y[rows]).square()).mean()
            optimizer.zero_grad()
            if loss.requires_grad:  # a process may have no kernel of a small batch
                accelerator.backward(loss)
            sum_gradients(predictor.parameters(), accelerator)
            optimizer.step()
            progress.update()
            done = step + 1
            if done % LOG_INTERVAL == 0 or done == settings.steps:
                value = float(accelerator.reduce(loss.detach(), reduction='sum'))
                progress.show(loss=f'{value:.4f}')
                monitor.log(done, {'loss': value, 'lr': settings.lr_at(step) * rate})
                if not math.isfinite(value):
                    raise SbsError(f'The loss of {name} is {value} at step {done}. Lower its learning rate.')
            monitor.step_done(done)
    predictor.eval()
    stored = generator.with_predictor(stored_predictor(predictor, storage))
    return relative_error(stored(), weights)
