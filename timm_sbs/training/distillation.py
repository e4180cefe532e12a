"""Second phase: train predictor and kept tensors so that the generated model predicts what the original predicts."""
from typing import Callable, Iterator, Tuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from timm_sbs.errors import SbsError
from timm_sbs.training.generated_model import GeneratedModel
from timm_sbs.training.losses import distillation_loss
from timm_sbs.training.settings import DistillationSettings

__all__ = ['distill']


def _endless(loader: DataLoader) -> Iterator[Tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _trained_parameters(student: GeneratedModel) -> list:
    """The predictor, and the kept parameters of the base model."""
    for name, parameter in student.model.named_parameters():
        if name not in student.plan.config.generated:
            parameter.requires_grad_(True)
    student.predictor.requires_grad_(True)
    return [p for p in student.parameters() if p.requires_grad]


def distill(
        student: GeneratedModel,
        original: nn.Module,
        loader: DataLoader,
        settings: DistillationSettings,
        accelerator: Accelerator,
        on_interval: Callable[[int], None],
) -> None:
    """Distil the original model into a generated one.

    Args:
        student: Trained in place; BatchNorm statistics follow the training images.
        original: The teacher, in eval mode.
        loader: Training images.
        settings: Steps, learning rate, temperature and so on.
        accelerator: Places models and data, and sets the precision.
        on_interval: Called with the number of steps done, every ``eval_interval`` steps and after the last.

    Raises:
        SbsError: The loss is no longer finite.
    """
    optimizer = torch.optim.Adam(_trained_parameters(student), lr=settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps + 1, pct_start=0.05, cycle_momentum=False)
    original = original.to(accelerator.device, memory_format=torch.channels_last)
    student.to(memory_format=torch.channels_last)
    model, optimizer, loader = accelerator.prepare(student, optimizer, loader)
    batches = _endless(loader)
    model.train()
    with tqdm(total=settings.steps, desc='distillation', unit='step', disable=None) as progress:
        for step in range(1, settings.steps + 1):
            images, _ = next(batches)
            images = images.to(memory_format=torch.channels_last)
            with accelerator.autocast():
                with torch.no_grad():
                    original_logits = original(images)
                logits = model(images)
            loss = distillation_loss(logits, original_logits, settings.temperature)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), settings.clip_grad)
            optimizer.step()
            scheduler.step()
            progress.update()
            if step % 20 == 0 or step == settings.steps:
                value = loss.item()
                progress.set_postfix(loss=f'{value:.4f}')
                if not torch.isfinite(loss):
                    raise SbsError(f'The distillation loss is {value} at step {step}. Lower --lr.')
            if step % settings.eval_interval == 0 or step == settings.steps:
                on_interval(step)
                model.train()
