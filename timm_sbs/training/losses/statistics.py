"""What errors of the weights do to predictions: second moments of each layer's inputs, and the importance of its
outputs, from one look at some images."""
import contextlib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.errors import SbsError
from timm_sbs.common.products import float32_products
from timm_sbs.common.progress import Progress
from timm_sbs.common.tensors import as_float64
from timm_sbs.data.outputs import Outputs, outputs_of
from timm_sbs.training.losses.weight_uses import Call, Use, WatchedCalls
from timm_sbs.training.phase_settings import FEWEST_IMAGES

__all__ = ['LayerStatistics', 'collect_statistics']

DOUBTED_IMAGES = 8  # of the first batches, or a quarter of them
HALF_OCTAVES = 81  # of temperature: up to a million million
FEWEST_POSITIONS = 16  # of an image and call that are looked at, if there are so many


@dataclass(frozen=True)
class LayerStatistics:
    """What one generated weight sees and does.

    Shapes: G groups, B blocks of each group's inputs, d inputs of a block, O outputs
        second_moment [G, B, d, d]: the mean over images of (1 - r) sum_t u_t u_t^T + r (sum_t u_t) (sum_t u_t)^T, for
            the input patches u_t at positions t, and the correlation r, from 0 to 1, of the derivatives by an output at
            two positions of an image. Where a bias or a BatchNorm takes up constant errors (:class:`Use`), u_t is
            without its mean over images and positions
        mean [G, B, d]: that mean
        importance [O]: the mean over images and positions of the squared derivative of the log-likelihood by each
            output: the diagonal of the Fisher information of the outputs
        coupling []: the mean of these squared derivatives times the squared deviations of the outputs from their means,
            over the product of the means of both: how much more an error costs that grows with the output than one
            that has nothing to do with it. 1 where they are independent; 25 for the classifier of EfficientNet-Lite0,
            where an output is large on the images of its class alone, and matters there alone
    """
    second_moment: Tensor
    mean: Tensor
    importance: Tensor
    coupling: Tensor


def _patches(call: Call, summed: bool = False) -> Tensor:
    """What the weight is applied to at each position, a view [images, channels, kernel, kernel, height, width], or its
    sum over all positions [images, channels, kernel, kernel]."""
    x = call.inputs.detach()
    if not call.kernel:
        x = x.reshape(call.images, -1, x.shape[-1]).mT[:, :, None, None, :, None]
        return x.sum((-2, -1), dtype=torch.float32) if summed else x
    x = F.pad(x, [amount for pair in reversed(call.padding) for amount in pair])
    for axis, positions in enumerate(call.outputs.shape[2:]):
        # A window begins at each number of the kernel, and each stride-th number in it is that of one position.
        x = x.unfold(2 + axis, (positions - 1) * call.stride[axis] + 1, call.dilation[axis])[..., ::call.stride[axis]]
        x = x.narrow(2 + axis, 0, call.kernel[axis])
        x = x.sum(-1, dtype=torch.float32) if summed else x
    return x


class _Moments:
    """Sums of vectors [P, d, N], and of their products with themselves.

    They are taken about the mean of the first vectors: where a variance is small beside the square of a mean, float32
    sums about zero would lose it.
    """

    def __init__(self, use: Use, device: torch.device) -> None:
        self._shape = use.groups, use.blocks, use.size
        self._first = torch.zeros(use.groups * use.blocks, use.size, 1, device=device)
        self._second = torch.zeros(use.groups * use.blocks, use.size, use.size, device=device)
        self._shift: Tensor | None = None
        self._count = 0.

    def add(self, vectors: Tensor, weight: float = 1.) -> None:
        if self._shift is None:
            self._shift = vectors.mean(-1, keepdim=True)
        vectors = vectors - self._shift
        self._second.baddbmm_(vectors, vectors.mT, alpha=weight)
        self._first.add_(vectors.sum(-1, keepdim=True), alpha=weight)
        self._count += weight * vectors.shape[-1]

    def means(self, accelerator: Accelerator, images: int) -> tuple[Tensor, Tensor]:
        """Of all processes, for an image, about zero, in float64: sums [G, B, d] and products [G, B, d, d]."""
        first, second = as_float64(self._first), as_float64(self._second)
        if self._shift is not None:
            shift = as_float64(self._shift)
            second += first @ shift.mT + shift @ first.mT + self._count * shift @ shift.mT
            first += self._count * shift
        first, second = (accelerator.reduce(part, reduction='sum') / images for part in (first, second))
        return first.view(self._shape), second.view(*self._shape, -1)


class _Accumulator:
    """Sums of one weight over images."""

    def __init__(self, use: Use, outputs: int, device: torch.device) -> None:
        self.use = use
        self.sampled, self.summed = _Moments(use, device), _Moments(use, device)
        self.importance, self.deviations = torch.zeros(2, outputs, device=device)
        self.coupled = torch.zeros((), device=device)
        self.products = torch.zeros(2, device=device)  # of derivatives at two positions, and of equal ones as many

    def add_inputs(self, call: Call, generator: torch.Generator) -> None:
        """Sums over all positions, and products at so many that they cost about as much as two forward passes."""
        use, patches = self.use, _patches(call)
        parts, (height, width) = use.groups * use.blocks, patches.shape[-2:]
        outputs = call.weight.shape[0] // use.groups
        count = min(height * width, max(FEWEST_POSITIONS, math.ceil(2 * height * width * outputs / use.size)))
        at = torch.randperm(height * width, generator=generator)[:count].to(patches.device)
        sampled = patches[..., at // width, at % width].float().movedim(0, -2)
        self.sampled.add(sampled.reshape(parts, use.size, -1), height * width / count)
        self.summed.add(_patches(call, summed=True).movedim(0, -1).reshape(parts, use.size, -1))

    def add_gradient(self, gradient: Tensor, outputs: Tensor | None, axis: int, images: int) -> None:
        """``outputs`` are None where an activation has overwritten them."""
        gradient = gradient.float().movedim(axis, -1)
        gradient = gradient.reshape(images, -1, gradient.shape[-1])  # [B, positions, O]
        squares = gradient.square()
        if outputs is not None:
            outputs = outputs.float().movedim(axis, -1).reshape(gradient.shape)
            deviations = (outputs - outputs.mean((0, 1))).square_()
            self.deviations += deviations.sum((0, 1))
            self.coupled += deviations.mul_(squares).sum()
        squares = squares.sum((0, 1))
        self.importance += squares
        self.products[0] += gradient.sum(1).square().sum() - squares.sum()
        self.products[1] += (gradient.shape[1] - 1) * squares.sum()

    def reduced(self, accelerator: Accelerator, images: int) -> LayerStatistics:
        sampled, each = self.sampled.means(accelerator, images)
        inputs, summed = self.summed.means(accelerator, images)
        importance, products, deviations, coupled = (
            accelerator.reduce(part, reduction='sum') / images
            for part in (self.importance, self.products, self.deviations, self.coupled))
        independent = (importance * deviations).sum() / self.use.positions
        coupling = torch.where(independent > 0, coupled / independent.clamp(min=1e-30), 1.)
        if self.use.corrector is not None:
            # With the means of the same patches, so that neither has a negative eigenvalue.
            each -= sampled[..., :, None] * sampled[..., None, :] / self.use.positions
            summed -= inputs[..., :, None] * inputs[..., None, :]
        correlation = (products[0] / products[1].clamp(min=1e-30)).clamp(0, 1)
        moment, mean = each.lerp_(summed, correlation.to(each)), inputs / self.use.positions
        return LayerStatistics(moment.to(importance), mean.to(importance), importance / self.use.positions, coupling)


def _temperature(outputs: Outputs, logits: Tensor, accelerator: Accelerator) -> float:
    """The lowest temperature, from 1 on, at which the predictions of some images of the first batches are in doubt.

    The Fisher information of a prediction that is certain vanishes. Of a network with large logits, or that knows its
    images by heart, it would hang on a few images or on none. Rounding of ResNet-20 to 1.5 bits by 2,000 images keeps
    94.2, 94.2, 94.0 and 94.0 % of its predictions at temperatures of 1, 1.5, 2 and 3, by 100 images 91.7, 92.4, 92.2
    and 93.1 %.
    """
    temperatures = 2. ** (torch.arange(HALF_OCTAVES) / 2)
    doubts = [doubt for t in temperatures.tolist() if (doubt := outputs.doubts(logits / t)) is not None]
    if not doubts:
        return 1.
    sums = torch.stack([torch.stack([doubt.sum(), doubt.square().sum()]) for doubt in doubts])
    sums = accelerator.reduce(sums, reduction='sum')
    count = accelerator.reduce(torch.tensor(float(len(logits)), device=logits.device), reduction='sum')
    images = sums[:, 0].square() / sums[:, 1].clamp(min=1e-30)  # as many would have as much doubt, all alike
    enough = (images >= torch.minimum(count / 4, torch.full_like(count, DOUBTED_IMAGES))).nonzero()
    return float(temperatures[int(enough[0]) if len(enough) else -1])


def collect_statistics(
        model: nn.Module,
        uses: Mapping[str, Use],
        batches: Iterable[Tensor],
        num_images: int,
        accelerator: Accelerator,
        seed: int = 0,
        outputs: Outputs | None = None,
) -> tuple[dict[str, LayerStatistics], int]:
    """Look at some images once, forwards and backwards.

    The gradient is a random one with the covariance of the Fisher matrix of the model's own predictions (Martens and
    Grosse, arXiv 1503.05671): no labels are needed. Positions of large feature maps are
    sampled, so that second moments cost about as much as two forward passes. Several processes share the images and
    add up.

    Args:
        model: The original, on the accelerator's device, in eval mode.
        batches: This process's images [B, C, H, W], normalised.
        num_images: Of all processes, as expected: batches may hold fewer.
        outputs: What the model's outputs mean; None: what its ``num_classes`` says.

    Returns:
        Statistics of the weights in ``uses``, on the accelerator's device, and the number of images that were seen.

    Raises:
        SbsError: The network's outputs are not finite, or there are fewer than ``FEWEST_IMAGES``.
    """
    device = accelerator.device
    outputs = outputs or outputs_of(model)
    names = {id(model.get_parameter(name)): name for name in uses}
    sums = {name: _Accumulator(use, model.get_parameter(name).shape[0], device) for name, use in uses.items()}
    generator = torch.Generator().manual_seed(seed * 1009 + accelerator.process_index)

    def watch(name: str, call: Call) -> None:
        if not call.outputs.requires_grad:
            return
        with torch.no_grad(), torch.autocast(device.type, enabled=False), float32_products('ieee'):
            sums[name].add_inputs(call, generator)
        outputs, version = call.outputs.detach(), call.outputs._version
        axis, count = 1 if call.kernel else -1, call.images
        call.outputs.register_hook(lambda gradient: sums[name].add_gradient(
            gradient, outputs if outputs._version == version else None, axis, count))

    lower = accelerator.autocast if accelerator.mixed_precision == 'bf16' else contextlib.nullcontext

    def forward(images: Tensor) -> Tensor:
        with lower():
            found: Tensor = model(images.to(device, memory_format=torch.channels_last)).float()
        if not torch.isfinite(found).all():
            raise SbsError('The original model has outputs that are not finite on the images of the statistics. '
                           'Are its weights complete?')
        return found

    batches = iter(batches)
    first = list(itertools.islice(batches, 1))
    with torch.no_grad():
        seen_first = forward(first[0]) if first else torch.zeros(0, 2, device=device)
    temperature = _temperature(outputs, seen_first, accelerator)
    seen = 0
    with Progress(num_images // accelerator.num_processes, 'statistics', 'image', accelerator=accelerator) as progress:
        for images in itertools.chain(first, batches):
            images = images.to(device).detach().requires_grad_()
            with torch.enable_grad(), WatchedCalls(names, len(images), watch):
                logits = forward(images)
            score = outputs.random_score(logits.detach() / temperature, generator)
            torch.autograd.grad((score * logits).sum(), images)
            seen += len(images)
            progress.update(len(images))
    total = int(accelerator.reduce(torch.tensor(seen, device=device), reduction='sum'))
    if total < FEWEST_IMAGES:
        raise SbsError(f'Statistics were to be taken from {total} image(s), but need at least {FEWEST_IMAGES}.')
    return {name: sums.pop(name).reduced(accelerator, total) for name in uses}, total
