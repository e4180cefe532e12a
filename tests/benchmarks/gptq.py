"""Rounding of a network's weights by output channel, as in GPTQ (arXiv 2210.17323), for imagenet_resnet18.py."""
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from common import Batches
from torch import Tensor, nn

import timm_sbs
from timm_sbs.codec.quantization import NORMAL_ENTROPY
from timm_sbs.codec.streams import Integers
from timm_sbs.training.loop import Context
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics, collect_statistics
from timm_sbs.training.losses.weight_uses import find_uses

__all__ = ['entropy_bytes', 'rounded_by_channel']

BITS = (2.7, 1.75)  # of entropy, of the weights that a predictor would generate
OTHER_BITS = 6  # of stem and classifier, which are rounded to the nearest of so many levels
COLUMNS = 128  # that are rounded before their errors go to all columns that follow
DAMPING = 1e-2, 1e-3  # of the rounding, and of the corrections


def rounded_by_channel(original: nn.Module, images: Batches) -> Iterator[tuple[str, int, nn.Module]]:
    """Name, bytes and model of each rounding: to the nearest, and by second order, where each column's error is made up
    for by those after it. Biases and BatchNorm means are corrected, and what has one dimension is stored as float16."""
    state = {name: tensor.detach() for name, tensor in original.state_dict().items()}
    names = timm_sbs.load('sbs_resnet18_15pct').generator.names
    uses = find_uses(original, names, images[0][0][:1])
    count = sum(len(batch) for batch, _ in images)
    moments, _ = collect_statistics(original, uses, (batch for batch, _ in images), count, Context().accelerator, 0)
    divergence = ExpectedDivergence({name: state[name] for name in names}, uses, moments, DAMPING[1])
    size = 2 * sum(tensor.numel() for tensor in state.values() if tensor.dim() == 1)
    for bits in BITS:
        for how in ('nearest', 'second order'):
            decoded, arrays = {}, []
            for name, weight in ((name, tensor) for name, tensor in state.items() if tensor.dim() > 1):
                rows = weight.flatten(1)
                steps = step_sizes(rows, bits) if name in moments else step_sizes_of_levels(rows)
                integers = rounded(rows, steps, moments.get(name) if how == 'second order' else None)
                decoded[name] = (integers * steps).view_as(weight)
                arrays.append(integers.long().numpy())
            changes = divergence.corrections({name: decoded[name] for name in moments})
            model = timm_sbs.load('sbs_resnet18_15pct').create_model()
            model.load_state_dict({**state, **decoded, **{name: state[name] + c for name, c in changes.items()}})
            total = entropy_bytes(arrays) + size + 2 * sum(map(len, arrays))
            yield f'rounded by channel, {how}, {bits:g} bits', total, model


def entropy_bytes(arrays: Iterable[Integers]) -> int:
    """Bytes of integers that are coded by how often each value comes in its array, and of these counts: one for each.
    """
    counts = [np.unique(array, return_counts=True)[1] for array in arrays]
    return math.ceil(sum((found * np.log2(found.sum() / found)).sum() / 8 + len(found) for found in counts))


def step_sizes(rows: Tensor, bits: float) -> Tensor:
    """Of each row, for integers of any size whose entropy is about ``bits``."""
    return (rows.square().mean(1, keepdim=True).sqrt() * 2 ** (NORMAL_ENTROPY - bits)).half().float()


def step_sizes_of_levels(rows: Tensor) -> Tensor:
    """Of each row, for integers of ``OTHER_BITS``: those with the least squared error, of some."""
    limit = 2 ** (OTHER_BITS - 1) - 1
    widest = rows.abs().amax(1, keepdim=True) / limit
    steps = torch.stack([(share * widest).clamp(min=1e-7).half().float() for share in torch.linspace(0.2, 1, 33)])
    errors = torch.stack([((rows / s).round().clamp(-limit, limit) * s - rows).square().sum(1) for s in steps])
    return steps.gather(0, errors.argmin(0)[None, :, None])[0]


def rounded(rows: Tensor, steps: Tensor, layer: LayerStatistics | None) -> Tensor:
    """Integers of a weight [O, d], to the nearest, or by second order with a layer's statistics."""
    if layer is None:
        return (rows / steps).round()
    moment = layer.second_moment[0, 0].double()
    moment = moment + DAMPING[0] * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moment)), upper=True).float()
    rest, integers = rows.clone(), torch.empty_like(rows)
    for start in range(0, rows.shape[1], COLUMNS):
        stop = min(start + COLUMNS, rows.shape[1])
        errors = []
        for column in range(start, stop):
            integers[:, column] = (rest[:, column] / steps[:, 0]).round()
            error = (rest[:, column] - integers[:, column] * steps[:, 0]) / factor[column, column]
            rest[:, column:stop] -= error[:, None] * factor[column, column:stop]
            errors.append(error)
        rest[:, stop:] -= torch.stack(errors, dim=1) @ factor[start:stop, stop:]
    return integers
