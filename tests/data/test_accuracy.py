"""Accuracy on labelled images, and predictions beside the original's."""
import math

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import nn

from timm_sbs.common.errors import SbsError
from timm_sbs.data.accuracy import Comparison, evaluate


def test_of_a_model_on_labelled_images():
    for num_classes in (10, 1):
        model = timm.create_model('resnet20_cifar10', num_classes=num_classes).train()
        images = torch.randn(10, 3, 32, 32)
        with torch.no_grad():
            outputs = model.eval()(images)
        labels = outputs.argmax(1) if num_classes > 1 else (outputs[:, 0] > 0).long()
        labels[:3] = (labels[:3] + 1) % 2
        found = evaluate(model.train(), [(images[:6], labels[:6]), (images[6:], labels[6:])])
        assert (found.correct, found.images, found.top1) == (7, 10, 70) and model.training
    with pytest.raises(SbsError, match='has no classifier'):
        evaluate(timm.create_model('resnet20_cifar10', num_classes=0), [])


class Head(nn.Linear):
    """Three pixels are three logits (``num_classes=3``) or features (0), times a scale."""

    def __init__(self, scale, num_classes=3):
        super().__init__(3, 3, bias=False)
        self.weight.data = scale * torch.eye(3)
        self.num_classes = num_classes

    def forward(self, images):
        return super().forward(images.flatten(1))


def images(*logits):
    return torch.tensor(logits).reshape(len(logits), 3, 1, 1)


def compare(model, original, batches):
    return Comparison(batches, original, Accelerator(cpu=True), 'test').measure(model)


def test_of_a_model_beside_its_original():
    """Divergences by hand: of (1/2, 1/4, 1/4) from itself sharpened."""
    batches = [(images([math.log(2), 0., 0.]), torch.tensor([0])),
               (images([0., 0., math.log(2)], [0., math.log(2), 0.]), torch.tensor([2, 0]))]
    model = Head(2.).train()
    found = compare(model, Head(1.), batches)
    expected = sum(p * math.log(p / q) for p, q in zip([1 / 2, 1 / 4, 1 / 4], [4 / 6, 1 / 6, 1 / 6]))
    assert found.divergence == pytest.approx(expected, rel=1e-5) and (found.images, found.agreement) == (3, 100)
    assert found.top1 == found.original_top1 == pytest.approx(200 / 3, rel=1e-6)
    assert model.training and str(found) == f'divergence {expected:.4f}, agreement 100.00 %'


def test_the_original_itself_diverges_by_nothing_and_nothing_is_drawn():
    def drawing():
        yield torch.rand(8, 3, 1, 1), torch.zeros(8, dtype=torch.long)

    models = Head(1.), Head(1., num_classes=0)
    before = torch.get_rng_state()
    for model in models:
        found = compare(model, model, drawing())
        assert found.divergence == 0 and found.agreement == pytest.approx(100)
    assert (found.top1, found.original_top1) == (None, None) and torch.equal(torch.get_rng_state(), before)


def test_other_classes_and_logits_that_are_not_finite():
    batches = [(images([2., 1., 0.], [0., 1., 2.]), torch.tensor([0, 0]))]
    found = compare(Head(-1.), Head(1.), batches)
    assert (found.agreement, found.top1, found.original_top1) == (0, 50, 50) and found.divergence > 1
    assert 1e3 < compare(Head(math.nan), Head(1.), batches).divergence < math.inf


def test_the_original_predicts_once_and_tensors_take_the_place_of_its_own():
    class Counted(Head):
        calls = 0

        def forward(self, images):
            Counted.calls += 1
            return super().forward(images)

    original, batches = Counted(1.), [(images([2., 1., 0.]), torch.tensor([0]))]
    comparison = Comparison(batches, original, Accelerator(cpu=True), 'test')
    for scale, agreement in ((1., 100), (-1., 0)):
        assert comparison.measure(Head(scale)).agreement == agreement
    assert Counted.calls == 1
    assert comparison.measure({'weight': -torch.eye(3)}) == comparison.measure(Head(-1.))
    assert torch.equal(original.weight, torch.eye(3))
