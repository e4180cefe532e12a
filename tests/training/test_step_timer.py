import types

import pytest

from timm_sbs.common import devices
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.training.run import step_timer
from timm_sbs.training.run.step_timer import AlikeImages, StepTimes, time_steps


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.

    def perf_counter(self):
        return self.now


@pytest.fixture()
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(devices, 'time', types.SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def times_of(clock, seconds_of, setup=0., warming=0., **sizes):
    """What is known of a phase whose steps take so many seconds, and the images of each step that it took."""
    taken = []

    def phase(timer):
        clock.now += setup
        timer.resume()
        for step in range(1, 1000):
            taken.append(timer.images)
            clock.now += seconds_of(timer.images) + warming * (step == 1)
            timer.step_done(step)

    return time_steps(phase, make_accelerator(), **sizes), taken


def test_a_few_steps_tell_what_each_takes(clock):
    times, taken = times_of(clock, lambda images: 0.01, setup=2.)
    assert times.setup == pytest.approx(2.) and times.of() == pytest.approx(0.01)
    assert len(taken) == 1 + step_timer.ENOUGH_STEPS
    times, taken = times_of(clock, lambda images: 0.01, warming=0.5)
    assert times.of() == pytest.approx(0.01) and len(taken) == 1 + step_timer.ENOUGH_STEPS


def test_long_steps_are_taken_once(clock):
    times, taken = times_of(clock, lambda images: 10.)
    assert times.of() == pytest.approx(10.) and len(taken) == 1


@pytest.mark.parametrize('fixed, each, expected', [
    (0.001, 0.0001, [2, 16, 128]),  # all sizes are cheap, so the last is that of the run
    (1., 0.1, [2, 16]), (40., 0.1, [2, 16]), (0.01, 1., [2, 16]),
])
def test_images_grow_while_that_is_cheap(clock, fixed, each, expected):
    times, taken = times_of(clock, lambda images: fixed + each * images, fewest=2, most=128, growth=8)
    assert sorted(set(taken)) == expected and len(taken) <= 1 + len(expected) * step_timer.ENOUGH_STEPS
    assert times.of(128) == pytest.approx(fixed + each * 128) and times.of(256) == pytest.approx(fixed + each * 256)


def test_noise_makes_no_estimate_absurd():
    assert StepTimes(0., {2: 1., 16: 0.9}).of(128) == 0.9  # no shorter than what was seen
    assert StepTimes(0., {2: 0.001, 16: 0.9}).of(128) == pytest.approx(7.2)  # no longer than in proportion
    assert StepTimes(0., {4: 0.5}).of(8) == 1. and StepTimes(0., {4: 0.5}).of(4) == 0.5


def test_a_batch_smaller_than_the_first_size(clock):
    times, taken = times_of(clock, lambda images: 0.1 * images, fewest=2, most=1, growth=8)
    assert set(taken) == {1} and times.of(1) == pytest.approx(0.1)


def test_what_has_no_monitor_is_timed_by_its_batches(clock):
    seen = []

    def look(timer):
        for images, labels, indices in AlikeImages(timer, (3, 8, 8)).watched():
            seen.append(tuple(images.shape))
            assert len(labels) == len(indices) == len(images)
            clock.now += 0.02 * len(images)

    times = time_steps(look, make_accelerator(), most=6, growth=4)
    assert times.of(6) == pytest.approx(0.12) and sorted(set(seen)) == [(1, 3, 8, 8), (4, 3, 8, 8), (6, 3, 8, 8)]


def test_a_phase_that_ends_by_itself(clock):
    def phase(timer):
        timer.resume()
        clock.now += 3.
        timer.step_done(1)

    assert time_steps(phase, make_accelerator(), most=4).of() == pytest.approx(3.)
