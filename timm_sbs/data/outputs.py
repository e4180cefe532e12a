"""What the outputs of a network mean, and so how those of two networks are compared."""
from abc import ABC, abstractmethod

import torch
from timm.models import get_model_traits
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.errors import SbsError

__all__ = ['ClassOutputs', 'FeatureOutputs', 'LabelOutputs', 'Outputs', 'check_outputs', 'outputs_of']


class Outputs(ABC):
    """How outputs [B, N] of two networks are compared.

    Attributes:
        task: As in :class:`~timm_sbs.training.settings.Original`.
        classes: That an image may have; 0 where there are none.
        told: How outputs are compared, if that is not the usual way.
    """
    task: str
    classes = 0
    told = ''

    @abstractmethod
    def divergences(self, outputs: Tensor, expected: Tensor, temperature: float = 1.) -> Tensor:
        """How far outputs are from the original's: [B], 0 where they mean the same."""

    @abstractmethod
    def agreements(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """From 0 to 1 for each image, 1 where both networks predict the same: [B]."""

    @abstractmethod
    def random_score(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Random derivatives [B, N] by the outputs, whose covariance is the second derivative of :meth:`divergences`.

        Derivatives of a class drawn from the predictions have it too, but hang on the few images for which an unlikely
        class happened to be drawn: on 500 training images, which the network is sure of, two draws differed by a factor
        of 6.
        """

    def doubts(self, outputs: Tensor) -> Tensor | None:
        """From 0, no doubt at all, what is uncertain of each prediction: [B]; None where nothing is predicted."""
        return None

    def predictions(self, outputs: Tensor) -> Tensor | None:
        """The one class of each image: [B]; None where images may have any number of them."""
        return None

    def class_loss(self, outputs: Tensor, classes: Tensor) -> Tensor:
        """Loss, [], of images that are to be of these classes [B], or to have these labels."""
        return outputs.new_zeros(())

    def distillation_loss(self, outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
        """Mean divergence of softened predictions (Hinton et al., arXiv 1503.02531).

        The factor temperature^2 keeps the size of gradients independent of the temperature.
        """
        return self.divergences(outputs, expected, temperature).mean() * temperature ** 2


class ClassOutputs(Outputs):
    """Logits of classes, of which each image has one: their softmax is what the network predicts. Divergence is that of
    Kullback and Leibler, in nats; agreement is 1 where both predict the same class."""
    task = 'classification'

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def divergences(self, outputs: Tensor, expected: Tensor, temperature: float = 1.) -> Tensor:
        found, original = (torch.log_softmax(x.float() / temperature, dim=1) for x in (outputs, expected))
        return F.kl_div(found, original, reduction='none', log_target=True).sum(dim=1)

    def agreements(self, outputs: Tensor, expected: Tensor) -> Tensor:
        return (self.predictions(outputs) == self.predictions(expected)).float()

    def random_score(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        p = torch.softmax(outputs, dim=1)
        root = p.sqrt() * _signs(p, generator)
        return root - p * root.sum(1, keepdim=True)  # of covariance diag(p) - p p^T

    def doubts(self, outputs: Tensor) -> Tensor:
        return 1 - outputs.softmax(1).square().sum(1)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)

    def class_loss(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float(), classes)


class LabelOutputs(Outputs):
    """Logits of labels, of which an image may have any number: the sigmoid of each is the probability of its label. A
    single one tells two classes apart.

    Divergence is that of Kullback and Leibler, the sum over labels, in nats: binary cross-entropy less its minimum.
    Agreement is the number of labels that both networks predict over those that one of them predicts, or 1 where
    neither predicts any; of a single logit, 1 where both predict the same class.
    """
    task = 'multi-label'

    def __init__(self, labels: int) -> None:
        self.classes = max(2, labels)
        self._labels = labels
        self.told = 'The network has one output: its sigmoid is the probability of one class of two.' if labels == 1 \
            else ('Each output is a label of its own: outputs are compared by their binary cross-entropy (divergence) '
                  'and the overlap of the labels that are predicted (agreement).')

    def divergences(self, outputs: Tensor, expected: Tensor, temperature: float = 1.) -> Tensor:
        found, original = outputs.float() / temperature, expected.float() / temperature
        p = original.sigmoid()
        return (p * (F.logsigmoid(original) - F.logsigmoid(found))
                + (1 - p) * (F.logsigmoid(-original) - F.logsigmoid(-found))).sum(dim=1)

    def agreements(self, outputs: Tensor, expected: Tensor) -> Tensor:
        found, original = outputs > 0, expected > 0
        both, either = (found & original).sum(1), (found | original).sum(1)
        return torch.where(either == 0, 1., both / either.clamp(min=1))

    def random_score(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self._variances(outputs).sqrt() * _signs(outputs, generator)

    def doubts(self, outputs: Tensor) -> Tensor:
        return 2 * self._variances(outputs).sum(1)

    def predictions(self, outputs: Tensor) -> Tensor | None:
        return (outputs[:, 0] > 0).long() if self._labels == 1 else None

    def class_loss(self, outputs: Tensor, classes: Tensor) -> Tensor:
        targets = classes[:, None] if self._labels == 1 else F.one_hot(classes, self._labels)
        return F.binary_cross_entropy_with_logits(outputs.float(), targets.float(), reduction='sum') / len(outputs)

    def _variances(self, outputs: Tensor) -> Tensor:
        p = outputs.sigmoid()
        return p * (1 - p)


class FeatureOutputs(Outputs):
    """Features of a network without a classifier (``num_classes=0``), or other numbers. Divergence is the squared error
    over the squared norm of the original's; agreement is the cosine similarity, or 0 if that is negative."""
    task = 'embedding'
    told = ('The features of the network are compared, by their relative squared error (divergence) and cosine '
            'similarity (agreement).')

    def divergences(self, outputs: Tensor, expected: Tensor, temperature: float = 1.) -> Tensor:
        return (outputs.float() - expected.float()).square().sum(dim=1) / self._power(expected)

    def agreements(self, outputs: Tensor, expected: Tensor) -> Tensor:
        return F.cosine_similarity(outputs.float(), expected.float(), dim=1).clamp(min=0)

    def random_score(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return _signs(outputs, generator) * (2 / self._power(outputs)).sqrt()[:, None]

    def distillation_loss(self, outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
        """Mean relative squared error, whatever the temperature."""
        return self.divergences(outputs, expected).mean()

    def _power(self, features: Tensor) -> Tensor:
        """Squared norm of each image's features: [B]."""
        return features.float().square().sum(dim=1).clamp(min=1e-12)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """1 or -1, of the shape and on the device of a tensor."""
    return (torch.randint(2, like.shape, generator=generator) * 2. - 1.).to(like)


def outputs_of(model: nn.Module, task: str = 'auto') -> Outputs:
    """How the outputs of a network are compared.

    Args:
        task: 'auto': by its ``num_classes``, as timm's networks have it: none are an embedding, several classification;
            one is the logit of a label.

    Raises:
        SbsError: The task is not one for this network.

    Example:
        >>> outputs_of(timm.create_model('resnet18', num_classes=20), 'multi-label').told[:31]
        'Each output is a label of its o'
    """
    num_classes = get_model_traits(model).get('num_classes')
    if task == 'embedding' or (task == 'auto' and num_classes == 0):
        return FeatureOutputs()
    if num_classes == 0:
        raise SbsError(f'--task {task} needs logits, and {type(model).__name__} has no classifier (num_classes=0): its '
                       f'task is embedding.')
    if task == 'multi-label' or num_classes == 1:
        if task == 'classification':
            raise SbsError(f'--task classification needs a logit for each class, and {type(model).__name__} has one '
                           f'logit. Leave --task out: its sigmoid is then the probability of one class of two.')
        return LabelOutputs(num_classes or 1)
    return ClassOutputs(num_classes or 2)


@torch.no_grad()
def check_outputs(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Raises SbsError if the output of a network, a tensor, cannot be compared with another network's."""
    outputs = model(torch.zeros(1, *input_size).to(next(model.parameters())))
    if outputs.ndim != 2:
        raise SbsError(
            f'{type(model).__name__} returns a tensor of {list(outputs.shape)} for one image, but only logits or '
            f'features [images, outputs] can be compared; fit it without images, or create it with a classifier.')
