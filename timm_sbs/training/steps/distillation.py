"""Distillation: train predictor and kept tensors so that the generated model predicts what the original predicts."""
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_sbs.common.devices import moved
from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import Progress
from timm_sbs.data.batches import Batch, Batches
from timm_sbs.data.image_size import resize, size_at
from timm_sbs.data.mixing import ImageMixer
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.steps.generated_model import GeneratedModel
from timm_sbs.training.steps.monitor import Monitor
from timm_sbs.training.steps.objective import Objective
from timm_sbs.training.steps.optimizer import make_optimizer, set_lr

__all__ = ['distill']

LOG_INTERVAL = 20  # steps between looks at the loss, each of which waits for the device


def distill(
        student: GeneratedModel,
        original: nn.Module,
        batches: Batches,
        settings: DistillationSettings,
        accelerator: Accelerator,
        monitor: Monitor = Monitor(),
        cached_outputs: Tensor | None = None,
        name: str = 'distillation',
        batches_before: int = 0,
        mixer: ImageMixer | None = None,
) -> None:
    """Distil the original model into a generated one.

    Args:
        student: Trained in place. With ``train_kept`` 'statistics', BatchNorm follows the training images.
        original: The teacher, in eval mode.
        batches: Training images.
        settings: Steps, learning rate, losses and so on.
        accelerator: Devices, processes, precision.
        monitor: Hears of every step, and restores the state of a run that is resumed.
        cached_outputs: The original's logits of all training images, if they do not depend on augmentation.
        name: Of the phase, for the progress bar.
        batches_before: Batches that an earlier phase has had, after which this one begins.
        mixer: Mixes the images of each batch with each other.

    Raises:
        SbsError: The loss is no longer finite.
    """
    for model in (student, original):
        model.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = accelerator.prepare(make_optimizer(student.parameter_groups(settings), settings))
    start = monitor.resume()
    objective = Objective(student, original, settings, accelerator, cached_outputs)
    first = batches_before + start * settings.grad_accum_steps
    stream = _prepared(batches.starting_at(first), first, mixer, accelerator)
    student.train()
    try:
        with Progress(settings.steps, name, initial=start, accelerator=accelerator) as progress:
            for step in range(start, settings.steps):
                set_lr(optimizer, settings.lr_at(step))
                loss = _step(student, objective, stream, settings, accelerator, optimizer, step)
                progress.update()
                done = step + 1
                due = done % settings.eval_interval == 0 or done == settings.steps
                if done % LOG_INTERVAL == 0 or due:
                    value = float(loss)
                    progress.show(loss=f'{value:.4f}')
                    monitor.log(done, {'loss': value, 'lr': settings.lr_at(step)})
                    if not torch.isfinite(loss):
                        raise SbsError(f'The loss of {name} is {value} at step {done}. Lower its learning rate.')
                if due:
                    student.synchronize(accelerator)
                    monitor.measure(done)
                    student.train()
                monitor.step_done(done)
    finally:
        objective.close()
    student.eval()


def _step(
        student: GeneratedModel,
        objective: Objective,
        stream: Iterator[Batch],
        settings: DistillationSettings,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        step: int,
) -> Tensor:
    """One optimizer step: generate, run ``grad_accum_steps`` batches, and go back to the predictor."""
    optimizer.zero_grad()
    weights = student.generate(accelerator)
    total = torch.zeros((), device=accelerator.device)
    for _ in range(settings.grad_accum_steps):
        loss = objective(_resized(next(stream), settings, step), weights, step) / settings.grad_accum_steps
        accelerator.backward(loss)
        total += loss.detach()
    student.backward(weights, accelerator, step / max(1, settings.rate_ramp * settings.steps))
    accelerator.clip_grad_norm_(student.trained_parameters, settings.clip_grad)
    optimizer.step()
    return total


def _prepared(
        batches: Iterator[Batch], first: int, mixer: ImageMixer | None, accelerator: Accelerator) -> Iterator[Batch]:
    """Batches on the device, mixed; ``first`` is the number of the first."""
    for number, (images, labels, indices) in enumerate(_moved(batches, accelerator.device), first):
        if mixer:
            images, labels = mixer(images, labels, number)
        yield images, labels, indices


def _moved(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on the device. On a GPU the next one is on its way while this one is worked on."""
    def move(batch: Batch) -> Batch:
        images, labels, indices = batch
        return moved(images, device, torch.channels_last), moved(labels, device), moved(indices, device)

    if device.type != 'cuda':
        yield from map(move, batches)
        return
    stream = torch.cuda.Stream(device)

    def start_next() -> Batch:
        with torch.cuda.stream(stream):  # in which images are augmented too
            return move(next(batches))

    coming = start_next()
    while True:
        batch, current = coming, torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in batch:
            tensor.record_stream(current)
        coming = start_next()
        yield batch


def _resized(batch: Batch, settings: DistillationSettings, step: int) -> Batch:
    if settings.train_size is None:
        return batch
    images, labels, indices = batch
    return resize(images, size_at(settings.train_size, step, settings.steps)), labels, indices
