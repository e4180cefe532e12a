"""Second order: fit the kernels so that predictions change least, with no image in the loop."""
import copy
import dataclasses
import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.progress import say
from timm_sbs.predictor.generator import relative_error
from timm_sbs.training.loop import Context, optimize
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.phase_settings import SecondOrder
from timm_sbs.training.phases.reconstruction import lr_scale_of
from timm_sbs.training.trainable.two_stage import TwoStageGenerator

__all__ = ['corrected', 'fit_second_order']


def corrected(artifact: Artifact, divergence: ExpectedDivergence, state: Mapping[str, Tensor]) -> Artifact:
    """The artifact with the biases and BatchNorm means with which its layers have the original's mean outputs, and the
    original's variances beside these means.

    ``divergence`` knows the mean inputs of each layer, ``state`` is the original's state dict.
    """
    changes = divergence.corrections(artifact.stored_weights())
    kept = {name: (state[name].detach() + change.to(state[name].device)).to(state[name].dtype)
            for name, change in changes.items()}
    variances = {name.replace('running_mean', 'running_var') for name in kept if name.endswith('running_mean')}
    kept.update({name: state[name].detach() for name in variances})
    return dataclasses.replace(artifact, kept={**artifact.kept, **kept})


def fit_second_order(
        artifact: Artifact,
        state: Mapping[str, Tensor],
        divergence: ExpectedDivergence,
        settings: SecondOrder = SecondOrder(),
        context: Context | None = None,
        name: str = 'second_order',
) -> Artifact:
    """Fit the predictor of an artifact to the original weights, as far as errors of these change predictions.

    Each step takes all kernels, for errors of a filter's kernels add up; with batches of filters, ResNet-20 needed
    twice as many steps for the same divergence. A phase that makes the loss larger, or that changes far more
    predictions, is undone.

    Args:
        artifact: After reconstruction. Its predictor is trained in place; if it is quantized, rounded in each step.
        state: The original's state dict.
        divergence: The loss.

    Returns:
        The artifact, with corrected biases (:func:`corrected`).

    Raises:
        SbsError: The loss is no longer finite.
    """
    context = context or Context()
    accelerator, generator, words = context.accelerator, artifact.generator, name.replace('_', ' ')
    two_stage = TwoStageGenerator(artifact, accelerator)
    predictor = generator.predictor
    before = dataclasses.replace(artifact, generator=generator.with_predictor(copy.deepcopy(predictor)))

    def take_step(step: int) -> Tensor:
        weights = two_stage.generate()
        total = torch.zeros((), device=accelerator.device)
        for weight_name, weight in weights.items():
            loss, gradient = divergence(weight_name, weight)
            weight.grad = accelerator.scaler.scale(gradient) if accelerator.scaler else gradient
            total += loss
        two_stage.backward(weights)
        return total / accelerator.num_processes  # each has the same

    predictor.train()
    optimize(words, settings, predictor, predictor.parameters(), take_step, context, lr_scale_of(generator))
    predictor.eval()
    was, now = (divergence.total(each.stored_weights()) for each in (before, artifact))
    found = corrected(artifact, divergence, state)
    undone = functools.cache(lambda: corrected(before, divergence, state))
    if not decided_once(lambda: now <= was, accelerator):
        say(accelerator, f'{words}: the loss rose from {was:.4g} to {now:.4g}, so the steps are undone. Lower the '
                         f'learning rate.')
        found, now = undone(), was
    elif worse := context.far_worse(found, undone):
        say(accelerator, f'{words}: agreement fell from {worse[1]:.1f} to {worse[0]:.1f} %, so the steps are undone. '
                         f'Use more --statistics-images.')
        found, now = undone(), was
    else:
        say(accelerator, f'{words}: expected divergence {was:.4f} before, {now:.4f} after')
    context.results.update({
        'expected_divergence': now, f'{name}_error': relative_error(found.stored_weights(), state)})
    return found
