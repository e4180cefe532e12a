"""Reconstruction: fit the predictor to the kernels of the original model. Needs no data."""
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.codec.quantization import rounded_predictor
from timm_sbs.common.distributed import share, sum_gradients
from timm_sbs.predictor.generator import Generator, relative_error
from timm_sbs.training.loop import Context, optimize
from timm_sbs.training.phase_settings import Reconstruction
from timm_sbs.training.trainable.two_stage import kernel_features

__all__ = ['group_targets', 'lr_scale_of', 'reconstruct']

# Widest predictor that stands the full learning rate. Wider ones get less in proportion (arXiv 2203.03466): with 2e-2 a
# width of 227 is at an error of 0.81 after 500 steps on ResNet-56, with 1e-2 at 0.44.
FULL_RATE_WIDTH = 128
BATCH_SIZE = 4096  # positions of a step, over all processes


def lr_scale_of(generator: Generator) -> float:
    """Factor of the learning rate of phases that train a predictor alone."""
    return min(1., FULL_RATE_WIDTH / generator.predictor.config.width)


def group_targets(generator: Generator, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """What the predictor is to generate, in the order of positions, for each token group: original kernels over their
    layer's scale [N, T]."""
    originals = {name: weights[name].detach().cpu() / scale.cpu().clamp(min=torch.finfo(scale.dtype).tiny)
                 for name, scale in generator.scales.items()}
    return [group.in_position_order(originals) for group in generator.groups]


def _emphases(generator: Generator) -> list[Tensor]:
    """What the squared errors at each position of a token group count: [N, 1]. A layer counts by the square root of its
    values, for those of small layers do more; their mean over all values is 1."""
    sizes = [spec.num_weights for spec in generator.specs]
    mean = sum(math.sqrt(size) for size in sizes) / max(sum(sizes), 1)
    return [torch.cat([torch.full((positions, 1), 1 / (mean * math.sqrt(spec.num_weights)))
                       for spec, positions in zip(group.specs, group.positions)]) for group in generator.groups]


def _shuffled(count: int, batch_size: int, seed: int, device: torch.device, step: int) -> Iterator[Tensor]:
    """Endless batches of positions, from a step on; each pass visits every position once, in a new order.

    The order is drawn on the CPU, alike for all devices, and goes to the device of the run as a whole.
    """
    generator = torch.Generator().manual_seed(seed)
    skipped, in_pass = divmod(step, math.ceil(count / batch_size))
    for _ in range(skipped):
        torch.randperm(count, generator=generator)
    while True:
        order = torch.randperm(count, generator=generator).to(device)
        yield from order.split(batch_size)[in_pass:]
        in_pass = 0


def reconstruct(
        artifact: Artifact,
        weights: Mapping[str, Tensor],
        settings: Reconstruction = Reconstruction(),
        context: Context | None = None,
        name: str = 'reconstruction',
) -> Artifact:
    """Fit the predictor of an artifact to the original weights, by batches of shuffled kernels.

    Several processes share out the kernels of each batch, so that their number changes nothing but the time.

    Args:
        artifact: Its predictor is trained in place. If it is quantized, training rounds the predictor in each step.
        weights: Original weights by name.

    Returns:
        The artifact; ``context.results`` has the relative error of its weights as they are stored
        (:func:`~timm_sbs.predictor.generator.relative_error`).

    Raises:
        SbsError: The loss is no longer finite.
    """
    context = context or Context()
    accelerator, generator, quantization = context.accelerator, artifact.generator, artifact.storage.quantization
    device, predictor = accelerator.device, generator.to(accelerator.device).predictor.requires_grad_(True)
    targets = [targets.to(device) for targets in group_targets(generator, weights)]
    emphases = [emphasis.to(device) for emphasis in _emphases(generator)]
    features = kernel_features(generator)
    values = sum(t.numel() for t in targets)
    streams: list[Iterator[Tensor]] = []

    def take_step(step: int) -> Tensor:
        if not streams:  # the first step after a resume is not step 0
            total = sum(group.num_positions for group in generator.groups)
            for index, group in enumerate(generator.groups):  # in proportion to their number
                size = math.ceil(BATCH_SIZE * group.num_positions / total)
                streams.append(_shuffled(group.num_positions, size, context.seed + index, device, step))
        loss = torch.zeros((), device=device)
        parameters: dict[str, Tensor] = dict(predictor.named_parameters())
        if quantization:
            parameters = rounded_predictor(parameters, quantization)
        for group, x, y, emphasis, stream in zip(generator.groups, features, targets, emphases, streams):
            batch = next(stream)
            rows = batch[share(len(batch), accelerator)]
            with accelerator.autocast():
                kernels = predictor(x(rows), group.output_size, parameters).float()
            errors = (emphasis[rows] * (kernels - y[rows]).square()).sum()
            loss = loss + errors * (len(y) / len(batch) / values)
        accelerator.backward(loss)
        sum_gradients(predictor.parameters(), accelerator)
        return loss

    predictor.train()
    optimize(name, settings, predictor, predictor.parameters(), take_step, context, lr_scale_of(generator))
    predictor.eval()
    context.results[f'{name}_error'] = relative_error(artifact.as_stored().generator(), weights)
    return artifact
