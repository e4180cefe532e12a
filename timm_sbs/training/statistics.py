"""What errors of the weights do to predictions: second moments of each layer's inputs, and the importance of its
outputs, from one look at some images."""
import contextlib
import math
from dataclasses import dataclass, fields
from typing import Dict, Iterable, Mapping, Optional

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from timm_sbs.errors import SbsError
from timm_sbs.training.weight_uses import Call, Use, WatchedCalls

__all__ = ['LayerStatistics', 'collect_statistics', 'statistics_tensors', 'statistics_from_tensors']

FEWEST_POSITIONS = 16  # of an image and call that are looked at, if there are so many


@dataclass(frozen=True)
class LayerStatistics:
    """What one generated weight sees and does.

    Shapes: G groups, B blocks of each group's inputs, d inputs of a block, O outputs
        second_moment [G, B, d, d]: the mean over images of sum over positions u u^T, for input patches u
        mean [G, B, d]: the mean of u over images and positions
        importance [O]: the mean over images and positions of the squared derivative of the log-likelihood by each
            output: the diagonal of the Fisher information of the outputs
    """
    second_moment: Tensor
    mean: Tensor
    importance: Tensor


def statistics_tensors(statistics: Mapping[str, LayerStatistics]) -> Dict[str, Tensor]:
    """Flat, for a file."""
    return {
        f'{name}/{field.name}': getattr(layer, field.name).cpu().contiguous()
        for name, layer in statistics.items() for field in fields(LayerStatistics)}


def statistics_from_tensors(tensors: Mapping[str, Tensor]) -> Dict[str, LayerStatistics]:
    """Inverse of :func:`statistics_tensors`."""
    names = {key.rpartition('/')[0]: None for key in tensors}
    return {
        name: LayerStatistics(**{field.name: tensors[f'{name}/{field.name}'] for field in fields(LayerStatistics)})
        for name in names}


def _sampled_positions(call: Call, count: int, generator: torch.Generator) -> Optional[Tensor]:
    """Some positions of a call, in row-major order, or None for all of them."""
    if count >= call.positions:
        return None
    return torch.randperm(call.positions, generator=generator)[:count].to(call.inputs.device)


def _num_positions(call: Call, use: Use) -> int:
    """So many positions that their second moments cost about as much as two forward passes of the layer."""
    outputs = call.weight.shape[0] // use.groups
    return max(FEWEST_POSITIONS, math.ceil(2 * call.positions * outputs / use.size))


def input_patches(call: Call, positions: Optional[Tensor] = None) -> Tensor:
    """Inputs of a call at some positions, or at all: [groups, channels / groups * kernel, images * positions]."""
    x = call.inputs.detach()
    if not call.kernel:
        x = x.reshape(len(x), -1, x.shape[-1])
        x = x if positions is None else x[:, positions]
        return x.reshape(-1, x.shape[-1]).T[None]
    x = F.pad(x, [amount for padding in reversed(call.padding) for amount in (padding, padding)])
    height, width = call.outputs.shape[2:]
    at = torch.arange(height * width, device=x.device) if positions is None else positions
    rows, columns = (
        (index * stride)[None] + dilation * torch.arange(kernel, device=x.device)[:, None]
        for index, stride, dilation, kernel in zip(
            (at // width, at % width), call.stride, call.dilation, call.kernel))
    patches = x.movedim(0, 1)[:, :, rows[:, None], columns[None]]  # [C, B, kh, kw, P]
    patches = patches.permute(0, 2, 3, 1, 4)
    return patches.reshape(call.groups, -1, len(x) * len(at))


class _Accumulator:
    """Sums of one weight over images."""

    def __init__(self, use: Use, outputs: int, device: torch.device) -> None:
        shape = use.groups, use.blocks, use.size
        self.use = use
        self.second_moment = torch.zeros(*shape, use.size, device=device)
        self.inputs = torch.zeros(shape, device=device)
        self.importance = torch.zeros(outputs, device=device)

    def add_inputs(self, call: Call, generator: torch.Generator) -> None:
        positions = _sampled_positions(call, _num_positions(call, self.use), generator)
        patches = input_patches(call, positions).float()
        patches = patches.reshape(self.use.groups, self.use.blocks, self.use.size, -1)
        scale = 1. if positions is None else call.positions / len(positions)
        flat = patches.flatten(0, 1)
        self.second_moment.view(-1, self.use.size, self.use.size).baddbmm_(flat, flat.mT, alpha=scale)
        self.inputs.add_(patches.sum(-1), alpha=scale)

    def add_gradient(self, gradient: Tensor, axis: int) -> None:
        self.importance += gradient.float().square().movedim(axis, -1).flatten(0, -2).sum(0)

    def reduced(self, accelerator: Accelerator, images: int) -> LayerStatistics:
        sums = [accelerator.reduce(part, reduction='sum') / images
                for part in (self.second_moment, self.inputs, self.importance)]
        return LayerStatistics(sums[0], sums[1] / self.use.positions, sums[2] / self.use.positions)


def _random_score(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Random derivatives by the logits [B, classes] whose covariance is the Fisher information diag(p) - p p^T.

    Those of a class drawn from p have it too, but hang on the few images for which an unlikely class happened to be
    drawn: on 500 training images, which the network is sure of, two draws differed by a factor of 6.
    """
    p = torch.softmax(logits, 1)
    signs = (torch.randint(2, p.shape, generator=generator) * 2. - 1.).to(p)
    root = p.sqrt() * signs
    return root - p * (p.sqrt() * root).sum(1, keepdim=True)


def collect_statistics(
        model: nn.Module,
        uses: Mapping[str, Use],
        batches: Iterable[Tensor],
        num_images: int,
        accelerator: Accelerator,
        seed: int = 0,
) -> Dict[str, LayerStatistics]:
    """Look at some images once, forwards and backwards.

    The gradient is a random one with the covariance of the Fisher matrix of the model's own predictions (Martens and
    Grosse, arXiv 1503.05671): no labels are needed. Positions of large feature maps are
    sampled, so that second moments cost about as much as two forward passes. Several processes share the images and
    add up.

    Args:
        model: The original, on the accelerator's device, in eval mode.
        uses: What :func:`find_uses` returns.
        batches: This process's images [B, C, H, W], normalised.
        num_images: Of all processes.
        accelerator: Processes and precision.
        seed: Of gradients and positions.

    Returns:
        Statistics of the weights in ``uses``, on the accelerator's device.

    Raises:
        SbsError: The network's outputs are not finite, or there is no image.
    """
    device = accelerator.device
    names = {id(model.get_parameter(name)): name for name in uses}
    sums = {name: _Accumulator(use, model.get_parameter(name).shape[0], device) for name, use in uses.items()}
    generator = torch.Generator().manual_seed(seed * 1009 + accelerator.process_index)

    def watch(name: str, call: Call) -> None:
        with torch.no_grad():
            sums[name].add_inputs(call, generator)
        axis = 1 if call.kernel else -1
        call.outputs.register_hook(lambda gradient: sums[name].add_gradient(gradient, axis))

    lower = accelerator.autocast if accelerator.mixed_precision == 'bf16' else contextlib.nullcontext
    seen = 0
    with tqdm(total=num_images // accelerator.num_processes, desc='statistics', unit='image',
              disable=None if accelerator.is_main_process else True) as progress:
        for images in batches:
            images = images.to(device, memory_format=torch.channels_last).requires_grad_()
            with torch.enable_grad(), lower(), WatchedCalls(names, watch):
                logits = model(images).float()
            if not torch.isfinite(logits).all():
                raise SbsError('The original model has outputs that are not finite on the images of the statistics. '
                               'Are its weights complete?')
            score = _random_score(logits.detach(), generator)
            torch.autograd.grad((score * logits).sum(), images)
            seen += len(images)
            progress.update(len(images))
    if not seen:
        raise SbsError('There is no image to take statistics from.')
    return {name: layer.reduced(accelerator, num_images) for name, layer in sums.items()}
