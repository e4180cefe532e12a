"""First phase: fit the predictor to the kernels of the original model. Needs no data."""
import math
from typing import Dict, Iterator, List, Mapping, Tuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from timm_sbs.generate import GenerationPlan, TokenGroup, generate_kernels
from timm_sbs.predictor import Predictor
from timm_sbs.targets import to_kernels
from timm_sbs.training.losses import reconstruction_loss, relative_error
from timm_sbs.training.settings import ReconstructionSettings

__all__ = ['group_targets', 'targets_rms', 'reconstruct', 'reconstruction_error']


def group_targets(plan: GenerationPlan, weights: Mapping[str, Tensor]) -> List[Tensor]:
    """Kernels of the original model in place order, for each token group: [N, T]."""
    targets = []
    for group in plan.groups:
        kernels = torch.cat([to_kernels(weights[spec.name].detach().cpu(), spec) for spec in group.specs])
        in_place_order = torch.empty_like(kernels)
        in_place_order[group.place_of_kernel] = kernels
        targets.append(in_place_order)
    return targets


def targets_rms(targets: List[Tensor]) -> Tensor:
    """Root mean square over all target values: the one scale of all layers (it beats a scale for each layer)."""
    total = sum(t.double().square().sum() for t in targets)
    return (total / sum(t.numel() for t in targets)).sqrt().float()


def reconstruction_error(predictor: Predictor, plan: GenerationPlan, weights: Mapping[str, Tensor]) -> float:
    """Squared error of all generated weights over their squared norm."""
    kernels = [generate_kernels(predictor, plan, group) for group in plan.groups]
    return relative_error(kernels, group_targets(plan, weights))


def _shuffled_batches(num_kernels: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of kernel indices; each pass visits every kernel once, in a new order."""
    while True:
        yield from torch.randperm(num_kernels, generator=generator).split(batch_size)


def _batch_sizes(groups: Tuple[TokenGroup, ...], batch_size: int) -> List[int]:
    """Kernels of each group in one step: in proportion to their number."""
    total = sum(group.num_kernels for group in groups)
    return [min(group.num_kernels, math.ceil(batch_size * group.num_kernels / total)) for group in groups]


def reconstruct(
        predictor: Predictor,
        plan: GenerationPlan,
        weights: Mapping[str, Tensor],
        settings: ReconstructionSettings,
        seed: int = 0,
) -> Dict[str, float]:
    """Fit a predictor to the original weights: Adam, one-cycle learning rate, batches of shuffled kernels.

    Args:
        predictor: Trained in place; its output scale is set to that of the weights.
        plan: The generation whose results should equal ``weights``.
        weights: Original weights by name.
        settings: Steps, batch size, learning rate.
        seed: Of the order of kernels.

    Returns:
        ``reconstruction_error``: squared error over squared norm, over all generated weights.
    """
    device = predictor.output_scale.device
    targets = group_targets(plan, weights)
    rms = targets_rms(targets).to(device)
    predictor.output_scale.copy_(rms)
    targets = [t.to(device) for t in targets]
    features = [plan.features(group).to(device) for group in plan.groups]
    generator = torch.Generator().manual_seed(seed)
    batches = [
        _shuffled_batches(group.num_kernels, size, generator)
        for group, size in zip(plan.groups, _batch_sizes(plan.groups, settings.batch_size))]
    values = sum(t.numel() for t in targets)

    optimizer = torch.optim.Adam(predictor.parameters(), lr=settings.lr, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps + 1, pct_start=0.05, cycle_momentum=False)
    predictor.train()
    with tqdm(total=settings.steps, desc='reconstruction', unit='step', disable=None) as progress:
        for step in range(settings.steps):
            loss = torch.zeros((), device=device)
            for group, x, y, group_batches in zip(plan.groups, features, targets, batches):
                rows = next(group_batches).to(device)
                group_loss = reconstruction_loss(predictor(x[rows], group.token_size), y[rows], rms)
                loss = loss + group_loss * (y.numel() / values)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            progress.update()
            if step % 50 == 0:
                progress.set_postfix(error=f'{loss.item():.4f}')
    predictor.eval()
    return {'reconstruction_error': reconstruction_error(predictor, plan, weights)}
