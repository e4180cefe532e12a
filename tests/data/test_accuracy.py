import pytest
import timm
import torch

from timm_sbs.common.errors import SbsError
from timm_sbs.data.accuracy import evaluate


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
