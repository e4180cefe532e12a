"""Rounding of a weight by row without training, to the nearest or by second order, for imagenet_resnet18.py."""

import torch
from torch import Tensor

from timm_sbs.codec.quantization import NORMAL_ENTROPY
from timm_sbs.training.losses.statistics import LayerStatistics

__all__ = ['steps_of_levels', 'steps_of_entropy', 'rounded_rows']

COLUMNS = 128  # that are rounded before their errors go to all columns that follow


def steps_of_levels(weight: Tensor, bits: int) -> tuple[Tensor, float]:
    """Steps of the rows of a weight for integers of ``bits``, those with the least squared error, of some that reach to
    a part of the largest value; and the largest integer."""
    limit = 2 ** (bits - 1) - 1
    largest = weight.abs().amax(1, keepdim=True)
    shares = torch.linspace(0.2, 1, 33)
    steps = torch.stack([(share * largest / limit).clamp(min=1e-7).half().float() for share in shares])
    errors = torch.stack([((weight / s).round().clamp(-limit, limit) * s - weight).square().sum(1) for s in steps])
    return steps.gather(0, errors.argmin(0)[None, :, None])[0], limit


def steps_of_entropy(weight: Tensor, bits: float) -> tuple[Tensor, float]:
    """Steps of the rows of a weight for integers of any size, whose entropy is about ``bits``."""
    return (weight.square().mean(1, keepdim=True).sqrt() * 2 ** (NORMAL_ENTROPY - bits)).half().float(), float('inf')


def rounded_rows(
        weight: Tensor, steps: Tensor, limit: float, layer: LayerStatistics | None) -> Tensor:
    """Integers of a weight [O, d] for its rows' steps, to the nearest, or by second order with a layer's statistics."""
    if layer is None:
        return (weight / steps).round().clamp(-limit, limit)
    moment = layer.second_moment[0, 0].double()
    moment = moment + 1e-2 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moment)), upper=True).float()
    rest, integers = weight.clone(), torch.empty_like(weight)
    for start in range(0, weight.shape[1], COLUMNS):
        stop = min(start + COLUMNS, weight.shape[1])
        errors = []
        for column in range(start, stop):
            integers[:, column] = (rest[:, column] / steps[:, 0]).round().clamp(-limit, limit)
            error = (rest[:, column] - integers[:, column] * steps[:, 0]) / factor[column, column]
            rest[:, column:stop] -= error[:, None] * factor[column, column:stop]
            errors.append(error)
        rest[:, stop:] -= torch.stack(errors, dim=1) @ factor[start:stop, stop:]
    return integers
