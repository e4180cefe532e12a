import pytest
import torch

from timm_sbs.predictor.generator import relative_error
from timm_sbs.training.losses.distances import reconstruction_loss


def test_reconstruction_loss_over_everything_is_the_relative_error():
    targets, kernels = torch.randn(50, 9), torch.randn(50, 9)
    rms = targets.square().mean().sqrt()
    loss = float(reconstruction_loss(kernels, targets, rms))
    assert loss == pytest.approx(relative_error({'w': kernels}, {'w': targets}), rel=1e-5)
    assert relative_error({'w': torch.zeros(50, 9)}, {'w': targets}) == 1
    assert relative_error({'w': targets}, {'w': targets}) == 0
    parts = [dict(enumerate(rows.split(20))) for rows in (kernels, targets)]
    assert relative_error(*parts) == pytest.approx(relative_error({'w': kernels}, {'w': targets}))
    assert relative_error({'w': kernels}, {'v': kernels, 'w': targets}) == pytest.approx(loss, rel=1e-5)
