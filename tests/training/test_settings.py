import pytest
import torch

from timm_sbs.common.errors import ConfigError
from timm_sbs.training.options.settings import DistillationSettings, ReconstructionSettings


@pytest.mark.parametrize('make, says', [
    (lambda: ReconstructionSettings(steps=-1), 'must be 0 or more'),
    (lambda: ReconstructionSettings(lr=-1.), 'must be larger than 0'),
    (lambda: ReconstructionSettings(batch_size=0), 'must be larger than 0'),
    (lambda: ReconstructionSettings(sched='cyclic'), 'must be one of: one-cycle, cosine, constant'),
    (lambda: ReconstructionSettings(warmup=1.), 'from 0 to below 1'),
    (lambda: ReconstructionSettings(weight_decay=float('nan')), 'weight decay of reconstruction is nan'),
    (lambda: DistillationSettings(temperature=0.), 'must be larger than 0'),
    (lambda: DistillationSettings(lr=float('nan')), 'must be larger than 0'),
    (lambda: DistillationSettings(feature_weight=(-1., 0.)), 'Loss weights must be 0 or more'),
    (lambda: DistillationSettings(output_weight=(0., 0.)), 'nothing to distil'),
    (lambda: DistillationSettings(train_kept=('norm', 'head')), "train_kept names 'head'"),
])
def test_settings_out_of_range(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize('steps, warmup', [(200, 0.05), (40, 0.3), (7, 0.5)])
def test_one_cycle_is_torchs(steps, warmup):
    settings = ReconstructionSettings(steps=steps, warmup=warmup)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=steps + 1, pct_start=warmup, cycle_momentum=False)
    for step in range(steps):
        assert settings.lr_at(step) == pytest.approx(optimizer.param_groups[0]['lr'], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize('sched', ['one-cycle', 'cosine', 'constant'])
@pytest.mark.parametrize('warmup', [0., 0.1])
@pytest.mark.parametrize('steps', [1, 2, 100])
def test_schedules_stay_between_zero_and_the_peak(sched, warmup, steps):
    settings = DistillationSettings(steps=steps, lr=1., sched=sched, warmup=warmup)
    values = [settings.lr_at(step) for step in range(steps)]
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    if steps == 100:
        assert max(values) > 0.98
        assert values[-1] == 1. if sched == 'constant' else values[-1] < 0.01
        assert (values[0] < 0.1) == bool(warmup)


def test_loss_weights_move_from_first_to_last_step():
    settings = DistillationSettings(steps=11, output_weight=(1., 1.), feature_weight=(2., 0.), label_weight=(0., 0.5))
    assert settings.weights_at(0) == (1., 2., 0.)
    assert settings.weights_at(5) == pytest.approx((1., 1., 0.25))
    assert settings.weights_at(10) == pytest.approx((1., 0., 0.5))
    assert DistillationSettings(steps=1, feature_weight=(3., 0.)).weights_at(0) == (1., 3., 0.)
