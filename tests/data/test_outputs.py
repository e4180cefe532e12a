"""What outputs mean: classes, one logit, features."""
import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from timm_sbs.common.errors import SbsError
from timm_sbs.data.outputs import ClassOutputs, FeatureOutputs, LabelOutputs, check_outputs, outputs_of


def network(num_classes, **kwargs):
    return timm.create_model('resnet20_cifar10', num_classes=num_classes, **kwargs).eval()


def test_distillation_loss_is_the_divergence_times_temperature_squared():
    student, original = torch.tensor([[0., 0.]]), torch.tensor([[2., 0.]])
    p = 1 / (1 + math.exp(-2 / 4))
    expected = 16 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    loss = ClassOutputs(2).distillation_loss
    assert float(loss(student, original, 4.)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(original + 3, original, 2.)) == pytest.approx(0, abs=1e-6)
    assert float(LabelOutputs(1).distillation_loss(student[:, :1], original[:, :1], 4.)) == pytest.approx(expected)
    for kind in (ClassOutputs(2), LabelOutputs(2), FeatureOutputs()):
        assert kind.distillation_loss(student.bfloat16(), original, 2.).dtype == torch.float32


def test_one_logit_is_that_of_a_sigmoid():
    kind, found, expected = outputs_of(network(1)), torch.randn(50, 1), torch.randn(50, 1)
    p, q = torch.sigmoid(expected), torch.sigmoid(found)
    by_hand = F.binary_cross_entropy(q, p, reduction='none') - F.binary_cross_entropy(p, p, reduction='none')
    torch.testing.assert_close(kind.divergences(found, expected), by_hand[:, 0], rtol=1e-4, atol=1e-6)
    assert kind.classes == 2 and kind.predictions(torch.tensor([[-1.], [2.]])).tolist() == [0, 1]
    assert torch.equal(kind.agreements(found, expected).bool(), ((found > 0) == (expected > 0))[:, 0])
    assert 'one output' in kind.told and not outputs_of(network(2)).told


def test_labels_are_independent():
    """Divergences add up over labels; agreement is the overlap of what is predicted."""
    kind, found, expected = outputs_of(network(5), 'multi-label'), torch.randn(50, 5), torch.randn(50, 5)
    each = [LabelOutputs(1).divergences(found[:, i, None], expected[:, i, None]) for i in range(5)]
    torch.testing.assert_close(kind.divergences(found, expected), torch.stack(each).sum(0))
    assert not kind.divergences(expected, expected).abs().max() > 1e-6
    sets = torch.tensor([[1., 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1]])
    assert kind.agreements(sets, sets).tolist() == [1, 1, 1, 1]
    assert kind.agreements(sets[:2], sets[2:]).tolist() == [.5, 0]
    assert kind.predictions(found) is None and 'label of its own' in kind.told
    wanted = torch.tensor([3, 0])
    assert kind.class_loss(10 * F.one_hot(wanted, 5).float() - 5, wanted) < 0.1 < kind.class_loss(found[:2], wanted)


def test_the_task_follows_from_the_number_of_outputs_or_is_told():
    tasks = [outputs_of(network(classes)).task for classes in (0, 1, 2)]
    assert tasks == ['embedding', 'multi-label', 'classification']
    assert outputs_of(network(4), 'embedding').task == 'embedding'
    for classes, task, says in ((0, 'multi-label', 'has no classifier'), (0, 'classification', 'has no classifier'),
                                (1, 'classification', 'has one logit')):
        with pytest.raises(SbsError, match=says):
            outputs_of(network(classes), task)


def test_features_count_by_their_own_size():
    kind, expected = outputs_of(network(0)), torch.randn(20, 64)
    noise = 0.1 * torch.randn(20, 64)
    divergences = kind.divergences(expected + noise, expected)
    assert divergences.mean() == pytest.approx(0.01, rel=0.2)
    torch.testing.assert_close(kind.divergences(100 * (expected + noise), 100 * expected), divergences)
    assert kind.predictions(expected) is None and kind.told
    assert kind.agreements(2 * expected, expected).min() > 0.999 and kind.agreements(-expected, expected).max() == 0


def test_outputs_that_cannot_be_compared():
    check_outputs(network(3), (3, 32, 32))
    for model, shape in ((network(0, global_pool=''), '1, 64, 8, 8'), (nn.Conv2d(3, 5, 3), '1, 5, 30, 30')):
        with pytest.raises(SbsError, match=rf'returns a tensor of \[{shape}\]'):
            check_outputs(model, (3, 32, 32))
