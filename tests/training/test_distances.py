import math

import pytest
import torch

from timm_sbs.training.losses.distances import distillation_loss


def test_distillation_loss_is_the_divergence_times_temperature_squared():
    student, original = torch.tensor([[0., 0.]]), torch.tensor([[2., 0.]])
    p = 1 / (1 + math.exp(-2 / 4))
    expected = 16 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert float(distillation_loss(student, original, 4.)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(original + 3, original, 2.)) == pytest.approx(0, abs=1e-6)


def test_distillation_loss_accepts_half_precision():
    logits = torch.randn(4, 10)
    assert distillation_loss(logits.bfloat16(), logits, 2.).dtype == torch.float32
