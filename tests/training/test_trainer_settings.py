"""The settings: what values may be, what excludes what, schedules, and what follows from them."""
import pytest
import torch

from timm_sbs.common.errors import ConfigError
from timm_sbs.data.settings import ImageSettings
from timm_sbs.training.phase_settings import WARMUP, Distillation, Reconstruction, SecondOrder
from timm_sbs.training.settings import RunSettings, Settings, Target


@pytest.mark.parametrize('make, says', [
    (lambda: Reconstruction(steps=-1), '--reconstruction-steps is -1, but must be 0 or more'),
    (lambda: SecondOrder(statistics_images=5), '--statistics-images is 5, but must be 10 or more'),
    (lambda: Distillation(lr=float('nan')), '--lr is nan, but must be larger than 0'),
    (lambda: Distillation(temperature=0.), 'temperature is 0'),
    (lambda: Distillation(feature_weight=-1.), '--feature-weight is -1, but must be 0 or more'),
    (lambda: Target(pct=101.), '--pct is 101, but must be larger than 0 and at most 100'),
    (lambda: Target(bits=99), '--bits is 99'), (lambda: Target(kept_bits=99), '99, but must be from'),
    (lambda: Target(linear_layers=1), 'linear_layers'), (lambda: Target(bytes='many'), "'many'"),
    (lambda: Target(order_over='axes', coordinates='path'), "coordinates='path' needs"),
    (lambda: Target(pct=20, bytes='60k'), '--pct makes a predictor, and --bytes rounds all weights'),
    (lambda: Target(bits=4, bytes='60k'), '--bits quantizes a predictor, and --bytes makes none'),
    (lambda: Target(generate=('layer3.*',), bytes='60k'), 'generate names weights for a predictor'),
    (lambda: RunSettings(checkpointing_steps=0, output='x'), '--checkpointing-steps is 0')])
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize('text, count', [('64k', 64_000), ('1.5M', 1_500_000), ('2KiB', 2048), (49152, 49152)])
def test_byte_counts(text, count):
    target = Target(bytes=text)
    assert (target.max_bytes, target.rounds) == (count, True) and not Target().rounds


@pytest.mark.parametrize('steps', [200, 40])
def test_one_cycle_is_torchs(steps):
    settings = Reconstruction(steps=steps)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=steps + 1, pct_start=WARMUP, cycle_momentum=False)
    for step in range(steps):
        assert settings.lr_at(step) == pytest.approx(optimizer.param_groups[0]['lr'], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize('steps', [1, 2, 7])
def test_the_learning_rate_of_few_steps_stays_between_zero_and_the_peak(steps):
    assert all(0 < Distillation(steps=steps, lr=1.).lr_at(step) <= 1 + 1e-12 for step in range(steps))


def test_phases_that_need_images_are_taken_where_there_are_some():
    without, drawn = Settings(), Settings(images=ImageSettings(data_free=True))
    assert not (without.has_images or without.takes_statistics or without.distils)
    assert drawn.has_images and drawn.takes_statistics and drawn.distils
    read = ImageSettings(images=('folder',))
    fewer = Settings(images=read, second_order=SecondOrder(steps=0), distillation=Distillation(steps=0))
    assert fewer.has_images and not (fewer.takes_statistics or fewer.distils)
    # BatchNorm statistics of drawn or mixed images are not those of photographs
    assert Settings(images=read).follows_statistics and not drawn.follows_statistics
    assert not Settings(images=ImageSettings(images=('folder',), mixup=1.)).follows_statistics
    asked = Settings(images=drawn.images, distillation=Distillation(train_statistics=True))
    assert asked.follows_statistics


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    run = RunSettings(output='~/x', resume='~/x/checkpoints/checkpoint-0-0000001')
    assert (run.output, run.resume) == (f'{tmp_path}/x', f'{tmp_path}/x/checkpoints/checkpoint-0-0000001')
