import pytest
import torch

from timm_sbs.common.errors import ConfigError
from timm_sbs.training.options.settings import WARMUP, DistillationSettings, ReconstructionSettings


@pytest.mark.parametrize('make, says', [
    (lambda: ReconstructionSettings(steps=-1), 'must be 0 or more'),
    (lambda: ReconstructionSettings(lr=-1.), 'must be larger than 0'),
    (lambda: ReconstructionSettings(batch_size=0), 'must be larger than 0'),
    (lambda: DistillationSettings(temperature=0.), 'must be larger than 0'),
    (lambda: DistillationSettings(lr=float('nan')), 'must be larger than 0'),
    (lambda: DistillationSettings(feature_weight=(-1., 0.)), 'Loss weights must be 0 or more'),
    (lambda: DistillationSettings(output_weight=(0., 0.)), 'nothing to distil'),
    (lambda: DistillationSettings(train_kept=('norm', 'head')), "train_kept names 'head'"),
])
def test_settings_out_of_range(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize('steps', [200, 40])
def test_one_cycle_is_torchs(steps):
    settings = ReconstructionSettings(steps=steps)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=steps + 1, pct_start=WARMUP, cycle_momentum=False)
    for step in range(steps):
        assert settings.lr_at(step) == pytest.approx(optimizer.param_groups[0]['lr'], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize('steps', [1, 2, 7, 100])
def test_the_learning_rate_stays_between_zero_and_the_peak(steps):
    settings = DistillationSettings(steps=steps, lr=1.)
    values = [settings.lr_at(step) for step in range(steps)]
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    if steps == 100:
        assert max(values) > 0.98 and values[-1] < 0.01 and values[0] < 0.1


def test_loss_weights_move_from_first_to_last_step():
    settings = DistillationSettings(steps=11, output_weight=(1., 1.), feature_weight=(2., 0.), label_weight=(0., 0.5))
    assert settings.weights_at(0) == (1., 2., 0.)
    assert settings.weights_at(5) == pytest.approx((1., 1., 0.25))
    assert settings.weights_at(10) == pytest.approx((1., 0., 0.5))
    assert DistillationSettings(steps=1, feature_weight=(3., 0.)).weights_at(0) == (1., 3., 0.)
