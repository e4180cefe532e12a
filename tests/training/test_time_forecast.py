"""Forecasts on a machine on which everything that is timed takes a second."""
import contextlib
import types

import pytest
from conftest import REPOSITORY, RESNET, ROUNDED
from processes import launch
from torch import nn

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import save_artifact
from timm_sbs.common import devices
from timm_sbs.common.config import OrderingConfig
from timm_sbs.data.in_memory import ImagesInMemory
from timm_sbs.predictor.selection import select_weights
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import parse_args
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.run import calibration, reading_forecast, statistics_sample, step_timer, time_forecast
from timm_sbs.training.run import train as train_module
from timm_sbs.training.run.time_forecast import forecast_seconds, ordering_seconds, usual_height

FLAGS = ['--second-order-steps', '100', '--statistics-images', '100', '-b', '50', '--workers', '0', '--dry-run',
         '--image-cache', '0', '--holdout-images', '0']


@pytest.fixture()
def steps(monkeypatch):
    """Every step that is taken."""
    taken, step_done = [], step_timer.StepTimer.step_done
    monkeypatch.setattr(
        step_timer.StepTimer, 'step_done', lambda self, step: (taken.append(step), step_done(self, step)))
    return taken


@pytest.fixture()
def clock(monkeypatch):
    """Between two looks at it a second passes."""
    ticks = iter(range(1_000_000))
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    for module in (devices, reading_forecast, time_forecast):
        monkeypatch.setattr(module, 'time', clock)


@pytest.fixture()
def forecast(clock, monkeypatch, tmp_path):
    """Seconds of each phase, with flags. What a test says of threads is not done: a hundred would keep spinning."""
    monkeypatch.setattr(train_module, 'used_threads', lambda _: contextlib.nullcontext())

    def of(*flags):
        args = parse_args(build_parser(), [*RESNET, '--output', str(tmp_path / 'out'), *FLAGS, *map(str, flags)])
        with train_module._opened(args, None, whole_program=False) as start:
            return forecast_seconds(start)

    return of


def test_a_phase_takes_the_time_of_its_steps(forecast, steps, image_folder, monkeypatch):
    traced, find_uses = [], calibration.find_uses
    monkeypatch.setattr(calibration, 'find_uses', lambda *args: (traced.append(args), find_uses(*args))[1])
    seconds = forecast('--unlabelled-dir', image_folder / 'train', '--distillation-steps', '10')
    assert list(seconds) == ['ordering', 'reconstruction', 'statistics', 'second-order', 'distillation']
    assert seconds['reconstruction'] == 1 + 4000
    assert seconds['second-order'] == 1 + 100 + 2
    assert seconds['statistics'] == pytest.approx(100 / 50 * 1 + 100)  # batches, and images that are read
    assert seconds['distillation'] == 1 + 10 * (1 + 50)
    assert len(steps) <= 4 * 2 * 2 and len(traced) == 1


@pytest.mark.parametrize('method', [('--method', 'rounding', '--bits', '3'), ('--method', 'generation')])
def test_statistics_that_are_too_large_to_be_timed_take_longer(forecast, image_folder, monkeypatch, method):
    flags = [*method, '--unlabelled-dir', image_folder / 'train', '--distillation-steps', '0']
    timed = forecast(*flags)['statistics']
    assert timed == pytest.approx(100 / 50 + 100)
    monkeypatch.setattr(statistics_sample, 'SAMPLE_BYTES', 1_000_000)
    assert timed < forecast(*flags)['statistics'] < 2 * timed


def test_looks_at_held_out_images_belong_to_their_phases(forecast, image_folder):
    flags = ['--unlabelled-dir', image_folder / 'train', '--distillation-steps', '10', '--eval-interval', '4']
    without = forecast(*flags)
    seconds = forecast(*flags, '--holdout-images', '50')
    once = 50 * (1 / 50 + 1)
    assert seconds['reconstruction'] - without['reconstruction'] == pytest.approx(2 * once)  # and the original
    assert seconds['distillation'] - without['distillation'] == pytest.approx(4 * once)  # before, after 4, 8 and 10
    assert seconds['second-order'] == without['second-order']
    measured = forecast(*flags, '--data-dir', image_folder)
    assert measured['validation'] == pytest.approx(100 * (2 / 50 + 1))  # both networks
    assert {name: measured[name] for name in without} == without


def test_what_worker_processes_read_meanwhile_costs_no_time(forecast, image_folder, monkeypatch):
    monkeypatch.setattr(reading_forecast, 'usable_cores', lambda: 1000)
    flags = ['--unlabelled-dir', image_folder / 'train', '--distillation-steps', '10', '--second-order-steps', '0']
    assert forecast(*flags, '--workers', '200')['distillation'] == 1 + 10 * 1
    assert forecast(*flags, '--workers', '10')['distillation'] == 1 + 10 * 50 / 10
    monkeypatch.setattr(reading_forecast, 'usable_cores', lambda: 1)
    monkeypatch.setattr(time_forecast.torch, 'get_num_threads', lambda: 1)
    assert forecast(*flags, '--workers', '200')['distillation'] == 1 + 10 * (1 + 50)


def test_images_that_are_kept_are_read_once_and_not_by_a_plan(forecast, image_folder, monkeypatch):
    monkeypatch.setattr(ImagesInMemory, 'load', None)
    monkeypatch.setattr(reading_forecast, 'usable_cores', lambda: 1000)
    flags = ['--data-dir', image_folder, '--distillation-steps', '10', '--second-order-steps', '0', '--workers']
    steps, look = 1 + 10, 2 * 100 / 50
    for workers, readers in ((0, 1), (2, 2)):
        seconds = forecast(*flags, workers, '--image-cache', '1G')
        assert seconds['distillation'] == pytest.approx(400 / readers + steps)
        assert seconds['validation'] == pytest.approx(100 / readers + look)


def test_outputs_that_augmentation_does_not_change_are_computed_once(forecast, image_folder):
    flags = ['--unlabelled-dir', image_folder / 'train', '--distillation-steps', '10', '--second-order-steps', '0']
    once = 400 * (1 / 50 + 1)
    assert forecast(*flags, '--no-aug')['distillation'] == pytest.approx(once + 1 + 10 * (1 + 50))


def test_rounding_on_images_and_without(forecast, image_folder):
    images = ['--unlabelled-dir', image_folder / 'train', '--bits', '6']
    seconds = forecast(*images, '--distillation-steps', '10', '--train-size', '16', '32')
    layers = 4
    assert 'distillation' not in seconds and seconds['quantization'] == 1 + 10 * (1 + 50) + layers
    seconds = forecast(*images, '--distillation-steps', '10', '--quantization-steps', '4')
    assert (seconds['distillation'], seconds['quantization']) == (1 + 10 * 51, 1 + 4 * 51 + layers)
    assert forecast('--bits', '6', '--quantization-steps', '7')['quantization'] == 7
    assert 'quantization' not in forecast('--bits', '6', '--quantization-steps', '0')


@pytest.mark.parametrize('images', [(), ('--distillation-steps', '0'), ('--distillation-steps', '10')])
def test_rounding_of_the_original_s_weights(forecast, image_folder, images):
    """A budget of bytes takes a second search."""
    flags = ['--method', 'rounding', *(['--unlabelled-dir', image_folder / 'train', *images] if images else [])]
    seconds = forecast(*flags, '--bits', '3')
    assert list(seconds) == [
        *(['statistics'] if images else []), 'rounding', *(['quantization'] if '10' in images else [])]
    assert seconds['rounding'] > 1
    assert forecast(*flags, '--bytes', '50k')['rounding'] == pytest.approx(2 * seconds['rounding'])


@pytest.mark.parametrize('flags', [
    ('--second-order-steps', '0', '--method', 'rounding', '--bits', '3'),
    ('--start-from', shipped_folder(ROUNDED[0]), '--second-order-steps', '100')])
def test_weights_that_no_rounding_phase_rounds(forecast, image_folder, flags):
    """They are rounded in training, or were in that of the artifact to start from."""
    flags = [*flags, '--unlabelled-dir', image_folder / 'train', '--distillation-steps', '10', '--eval-interval', '4']
    without = forecast(*flags)
    assert list(without) == ['quantization'] and without['quantization'] == 1 + 10 * 51
    looks = forecast(*flags, '--holdout-images', '50')['quantization'] - without['quantization']
    assert looks == pytest.approx((4 + 1) * 50 * (1 / 50 + 1))  # and the original


def test_a_rounding_phase_looks_at_held_out_images(forecast, image_folder):
    flags = ['--method', 'rounding', '--bits', '3', '--unlabelled-dir', image_folder / 'train', '--distillation-steps',
             '0']
    looks = forecast(*flags, '--holdout-images', '50')['rounding'] - forecast(*flags)['rounding']
    assert looks == pytest.approx(2 * 50 * (1 / 50 + 1))


def test_a_search_is_forecast_and_not_made(forecast, steps):
    seconds = forecast('--method', 'generation', '--bytes', '80k')
    trials, rest = divmod(seconds['search'], 1 + 600)
    assert (trials, rest) == (6, 0)  # four orderings at 5 bits, and two more numbers of bits
    assert len(steps) <= 4


@pytest.mark.parametrize('threads, seconds', [(1, 29_696 / 4096), (2, 29_696 / 4096 / 2), (100, 1)])
def test_layers_are_ordered_side_by_side(forecast, monkeypatch, threads, seconds):
    """4,096 kernels take a second, and are those of the largest layer."""
    monkeypatch.setattr(time_forecast.torch, 'get_num_threads', lambda: threads)
    assert forecast()['ordering'] == pytest.approx(seconds)
    assert forecast('--order-over', 'nothing')['ordering'] == 0


@pytest.mark.parametrize('over, seconds', [('layer', 16 * 16 ** 0.2), ('filter', 16), ('axes', 16)])
def test_longer_paths_take_more_time_for_each_kernel(clock, monkeypatch, over, seconds):
    """65,536 kernels, of which 4,096 take a second."""
    monkeypatch.setattr(time_forecast.torch, 'get_num_threads', lambda: 1)
    model = nn.Sequential(nn.Conv2d(256, 256, 3))
    assert ordering_seconds(model, select_weights(model), OrderingConfig(over, 'grid')) == pytest.approx(seconds)


def test_an_artifact_to_start_from_is_ordered(forecast, small_artifact, tmp_path):
    save_artifact(tmp_path / 'small', small_artifact)
    seconds = forecast('--start-from', tmp_path / 'small', '--reconstruction-steps', '10')
    assert seconds == {'reconstruction': 1 + 10}


def test_a_phase_that_is_left_out_does_not_look(forecast, small_artifact, image_folder, tmp_path):
    save_artifact(tmp_path / 'small', small_artifact)
    seconds = forecast('--start-from', tmp_path / 'small', '--unlabelled-dir', image_folder / 'train',
                       '--distillation-steps', '10', '--holdout-images', '50')
    assert list(seconds) == ['statistics', 'second-order', 'distillation']


@pytest.mark.parametrize('sizes, height', [(None, None), ((32, 32), 32), ((128, 192), 160), ((64, 224), 160)])
def test_the_usual_size_of_images(sizes, height):
    assert usual_height(DistillationSettings(steps=1000, train_size=sizes)) == height


def test_several_processes_end_at_the_same_step(tmp_path, image_folder):
    printed = launch(
        2, REPOSITORY / 'train_sbs.py', *RESNET, *FLAGS, '--unlabelled-dir', image_folder / 'train',
        '--distillation-steps', '10', '--output', tmp_path / 'out')
    assert printed.count('time, estimated') == printed.count('\n  distillation ') == 1
