"""Reconstruction: fit the predictor to the kernels of the original model. Needs no data."""
import dataclasses
import math
from typing import Dict, Iterator, List, Mapping, Optional, Tuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.func import functional_call
from tqdm.auto import tqdm

from timm_sbs.artifact import as_stored
from timm_sbs.config import QuantizationConfig
from timm_sbs.errors import SbsError
from timm_sbs.generate import GenerationPlan, TokenGroup, generate_weights, relative_error
from timm_sbs.predictor import Predictor
from timm_sbs.quantization import rounded_predictor
from timm_sbs.targets import to_kernels
from timm_sbs.training.features import kernel_features
from timm_sbs.training.losses import reconstruction_loss
from timm_sbs.training.monitor import Monitor
from timm_sbs.training.optimizer import make_optimizer, set_lr
from timm_sbs.training.settings import ReconstructionSettings
from timm_sbs.training.sharing import make_accelerator, share, sum_gradients

__all__ = ['group_targets', 'targets_rms', 'reconstruct', 'reconstruction_error']

# Widest predictor that stands the full learning rate. Wider ones get less in proportion (arXiv 2203.03466): with 2e-2 a
# width of 227 is at an error of 0.81 after 500 steps on ResNet-56, with 1e-2 at 0.44.
FULL_RATE_WIDTH = 128
LOG_INTERVAL = 50  # steps between looks at the loss, each of which waits for the device


def group_targets(plan: GenerationPlan, weights: Mapping[str, Tensor]) -> List[Tensor]:
    """Kernels of the original model in place order, for each token group: [N, T]."""
    targets = []
    for group in plan.groups:
        targets.append(group.in_place_order(
            torch.cat([to_kernels(weights[spec.name].detach().cpu(), spec) for spec in group.specs])))
    return targets


def targets_rms(targets: List[Tensor]) -> Tensor:
    """Root mean square over all target values: the one scale of all layers (it beats a scale for each layer)."""
    total = sum(t.double().square().sum() for t in targets)
    return (total / sum(t.numel() for t in targets)).sqrt().float()


def reconstruction_error(predictor: Predictor, plan: GenerationPlan, weights: Mapping[str, Tensor]) -> float:
    """Squared error of all generated weights over their squared norm."""
    generated = generate_weights(predictor, plan)
    return relative_error([*generated.values()], [weights[name].detach() for name in generated])


class _ShuffledKernels:
    """Endless batches of kernel indices; each pass visits every kernel once, in a new order."""

    def __init__(self, num_kernels: int, batch_size: int, seed: int) -> None:
        self.num_kernels = num_kernels
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def starting_at(self, step: int) -> Iterator[Tensor]:
        """Batches from a step on, counted from 0. To be called once."""
        skipped, in_pass = divmod(step, math.ceil(self.num_kernels / self.batch_size))
        for _ in range(skipped):
            torch.randperm(self.num_kernels, generator=self._generator)
        while True:
            yield from torch.randperm(self.num_kernels, generator=self._generator).split(self.batch_size)[in_pass:]
            in_pass = 0


def _batch_sizes(groups: Tuple[TokenGroup, ...], batch_size: int) -> List[int]:
    """Kernels of each group in one step: in proportion to their number."""
    total = sum(group.num_places for group in groups)
    return [min(group.num_places, math.ceil(batch_size * group.num_places / total)) for group in groups]


def reconstruct(
        predictor: Predictor,
        plan: GenerationPlan,
        weights: Mapping[str, Tensor],
        settings: ReconstructionSettings,
        seed: int = 0,
        accelerator: Optional[Accelerator] = None,
        monitor: Monitor = Monitor(),
        quantization: Optional[QuantizationConfig] = None,
) -> Dict[str, float]:
    """Fit a predictor to the original weights, by batches of shuffled kernels.

    Several processes share out the kernels of each batch, so that their number changes nothing but the time.

    Args:
        predictor: Trained in place, on the accelerator's device; its output scale is set to that of the weights.
        plan: The generation whose results should equal ``weights``.
        weights: Original weights by name.
        settings: Steps, batch size, optimizer. Predictors wider than 128 get a learning rate of lr * 128 / width.
        seed: Of the order of kernels.
        accelerator: Devices and processes; default: this process alone.
        monitor: Hears of every step, and restores the state of a run that is resumed.
        quantization: How the predictor will be rounded, if training is to know of it.

    Returns:
        ``reconstruction_error``: squared error over squared norm, over all generated weights, as they are stored.

    Raises:
        SbsError: The loss is no longer finite.
    """
    accelerator = accelerator or make_accelerator()
    device = accelerator.device
    predictor.to(device)
    targets = group_targets(plan, weights)
    rms = targets_rms(targets).to(device)
    predictor.output_scale.copy_(rms)
    targets = [t.to(device) for t in targets]
    features = kernel_features(plan, device)
    values = sum(t.numel() for t in targets)

    optimizer = accelerator.prepare(make_optimizer(predictor.parameters(), settings))
    rate = min(1., FULL_RATE_WIDTH / predictor.config.width)
    start = monitor.resume()
    sizes = _batch_sizes(plan.groups, settings.batch_size)
    streams = [
        _ShuffledKernels(group.num_places, size, seed + index).starting_at(start)
        for index, (group, size) in enumerate(zip(plan.groups, sizes))]
    predictor.train()
    with tqdm(total=settings.steps, initial=start, desc='reconstruction', unit='step',
              disable=None if accelerator.is_main_process else True) as progress:
        for step in range(start, settings.steps):
            set_lr(optimizer, settings.lr_at(step) * rate)
            loss = torch.zeros((), device=device)
            parameters = dict(predictor.named_parameters())
            if quantization:
                parameters = rounded_predictor(parameters, quantization)
            for group, x, y, stream in zip(plan.groups, features, targets, streams):
                batch = next(stream)
                rows = batch[share(len(batch), accelerator)]
                if len(rows):
                    part = (y.numel() / values) * (len(rows) / len(batch))
                    with accelerator.autocast():
                        kernels = functional_call(predictor, parameters, (x(rows), group.output_size)).float()
                    loss = loss + part * reconstruction_loss(kernels, y[rows.to(device)], rms)
            optimizer.zero_grad()
            if loss.requires_grad:  # a process may have no kernel of a small batch
                accelerator.backward(loss)
            sum_gradients(predictor.parameters(), accelerator)
            optimizer.step()
            progress.update()
            done = step + 1
            if done % LOG_INTERVAL == 0 or done == settings.steps:
                value = float(accelerator.reduce(loss.detach(), reduction='sum'))
                progress.set_postfix(error=f'{value:.4f}')
                monitor.log(done, {'loss': value, 'lr': settings.lr_at(step) * rate})
                if not math.isfinite(value):
                    raise SbsError(f'The reconstruction loss is {value} at step {done}. Lower its learning rate.')
            monitor.step_done(done)
    predictor.eval()
    stored = as_stored(predictor, dataclasses.replace(plan.config, quantization=quantization))
    return {'reconstruction_error': reconstruction_error(stored, plan, weights)}
