import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from timm_sbs.data.fidelity import LARGEST, fidelity, with_logits


@pytest.fixture()
def accelerator():
    return Accelerator(cpu=True)


def head(scale):
    """Three pixels are three logits, times a scale."""
    layer = nn.Linear(3, 3, bias=False)
    layer.weight.data = scale * torch.eye(3)
    return nn.Sequential(nn.Flatten(), layer)


def images(*logits):
    return torch.tensor(logits).reshape(len(logits), 3, 1, 1)


def test_of_a_model_beside_its_original(accelerator):
    """Divergences by hand: of (1/2, 1/4, 1/4) from itself sharpened."""
    batches = [(images([math.log(2), 0., 0.]), torch.tensor([0])),
               (images([0., 0., math.log(2)], [0., math.log(2), 0.]), torch.tensor([2, 0]))]
    original, model = head(1.), head(2.).train()
    found = fidelity(model, with_logits(original, batches), accelerator, 'test', 2)
    sharp = [4 / 6, 1 / 6, 1 / 6]
    expected = sum(p * math.log(p / q) for p, q in zip([1 / 2, 1 / 4, 1 / 4], sharp))
    assert found.divergence == pytest.approx(expected, rel=1e-5)
    assert (found.images, found.agreement) == (3, 100)
    assert found.top1 == found.original_top1 == pytest.approx(200 / 3, rel=1e-6)
    assert model.training and str(found) == f'divergence {expected:.4f}, agreement 100.00 %'


def test_the_original_itself_diverges_by_nothing(accelerator):
    batches = [(torch.randn(8, 3, 1, 1), torch.zeros(8, dtype=torch.long))]
    found = fidelity(head(1.), with_logits(head(1.), batches), accelerator, 'test')
    assert (found.divergence, found.agreement) == (0, 100)


def test_other_classes_and_logits_that_are_not_finite(accelerator):
    batches = [(images([2., 1., 0.], [0., 1., 2.]), torch.tensor([0, 0]))]
    found = fidelity(head(-1.), with_logits(head(1.), batches), accelerator, 'test')
    assert (found.agreement, found.top1, found.original_top1) == (0, 50, 50) and found.divergence > 1
    broken = fidelity(head(math.nan), with_logits(head(1.), batches), accelerator, 'test')
    assert broken.divergence == pytest.approx(LARGEST)


def test_random_states_stay_as_they_were(accelerator):
    def drawing():
        yield torch.rand(2, 3, 1, 1), torch.zeros(2, dtype=torch.long)

    model = head(1.)
    before = torch.get_rng_state()
    fidelity(model, with_logits(model, drawing()), accelerator, 'test')
    assert torch.equal(torch.get_rng_state(), before)
