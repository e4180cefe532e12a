"""What the outputs of a network mean, and so how those of two networks are compared."""
import torch
from timm.models import get_model_traits
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.common.errors import SbsError

__all__ = ['ClassOutputs', 'FeatureOutputs', 'Outputs', 'check_outputs', 'outputs_of']


class ClassOutputs:
    """Logits of classes [B, classes]. A single logit [B, 1] is that of the second of two classes; the first has 0.

    Attributes:
        classes: How many there are.
        told: How outputs are compared, if that is not the usual way.
    """

    def __init__(self, num_logits: int) -> None:
        self.classes = max(2, num_logits)
        self.told = '' if num_logits > 1 else (
            'The network has one output: its sigmoid is the probability of one class of two.')

    def logits(self, outputs: Tensor) -> Tensor:
        """float32 logits [B, classes], whose softmax is what the network predicts."""
        outputs = outputs.float()
        return F.pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs

    def divergences(self, outputs: Tensor, expected: Tensor, temperature: float = 1.) -> Tensor:
        """Kullback-Leibler divergence of the predictions from the original's, in nats: [B]."""
        found, original = (torch.log_softmax(self.logits(x) / temperature, dim=1) for x in (outputs, expected))
        return F.kl_div(found, original, reduction='none', log_target=True).sum(dim=1)

    def agreements(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """1 for each image of which both predict the same class, else 0: [B]."""
        return (self.predictions(outputs) == self.predictions(expected)).float()

    def predictions(self, outputs: Tensor) -> Tensor:
        """The class with the largest logit: [B]."""
        return self.logits(outputs).argmax(dim=1)

    def distillation_loss(self, outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
        """Mean divergence of softened predictions (Hinton et al., arXiv 1503.02531).

        The factor temperature^2 keeps the size of gradients independent of the temperature.
        """
        return self.divergences(outputs, expected, temperature).mean() * temperature ** 2


class FeatureOutputs:
    """Features [B, F] of a network without a classifier (``num_classes=0``), compared by relative squared error."""
    classes = 0
    told = ('The network has no classifier: its features are compared, by their relative squared error (divergence) '
            'and cosine similarity (agreement).')

    def power(self, features: Tensor) -> Tensor:
        """Squared norm of each image's features: [B]."""
        return features.float().square().sum(dim=1).clamp(min=1e-12)

    def divergences(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Squared error over the squared norm of the original's features: [B]."""
        return (outputs.float() - expected.float()).square().sum(dim=1) / self.power(expected)

    def agreements(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Cosine similarity, or 0 if it is negative: [B]."""
        return F.cosine_similarity(outputs.float(), expected.float(), dim=1).clamp(min=0)

    def predictions(self, outputs: Tensor) -> None:
        """None, since there are no classes."""
        return

    def distillation_loss(self, outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
        """Mean relative squared error, whatever the temperature."""
        return self.divergences(outputs, expected).mean()


Outputs = ClassOutputs | FeatureOutputs


def outputs_of(model: nn.Module) -> Outputs:
    """How the outputs of a network are compared: by its ``num_classes``, as timm's networks have it."""
    num_classes = get_model_traits(model).get('num_classes')
    return FeatureOutputs() if num_classes == 0 else ClassOutputs(num_classes or 2)


@torch.no_grad()
def check_outputs(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Raises SbsError if the output of a network, a tensor, cannot be compared with another network's."""
    outputs = model(torch.zeros(1, *input_size).to(next(model.parameters())))
    if outputs.ndim != 2:
        raise SbsError(
            f'{type(model).__name__} returns a tensor of {list(outputs.shape)} for one image, but only logits or '
            f'features [images, outputs] can be compared; fit it without images, or create it with a classifier.')
