import os
import platform
import subprocess
import sys

import pytest
import torch
from conftest import RESNET

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.train import main
from timm_sbs.training.run import precision
from timm_sbs.training.run.checkpoints import recorded_setting
from timm_sbs.training.run.precision import choose_precision, relative_speed, settle_precision

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def not_launched(monkeypatch):
    monkeypatch.delenv('ACCELERATE_MIXED_PRECISION', raising=False)


@pytest.mark.parametrize('ratio, expected, told', [
    (0.002, 'no', '500 times as slow'), (0.5, 'no', '2.0 times as slow'), (1.0, 'no', '1.0 times as fast'),
    (1.9, 'bf16', '1.9 times as fast')])
def test_the_faster_precision_is_chosen_and_the_ratio_is_told(monkeypatch, ratio, expected, told):
    monkeypatch.setattr(precision, 'relative_speed', lambda *_: ratio)
    choice = choose_precision(CPU)
    assert choice.precision == expected and told in choice.why


def test_what_was_launched_asked_or_recorded_goes_first(monkeypatch):
    monkeypatch.setattr(precision, 'relative_speed', lambda *_: 2.)
    assert settle_precision('no').precision == 'no'
    assert settle_precision('auto', recorded='no').precision == 'no'
    assert settle_precision('auto').precision == 'bf16'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp16')
    assert settle_precision('auto').precision == 'fp16'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'no')  # what accelerate launch says if nobody said anything
    assert settle_precision('auto').precision == 'bf16'


@pytest.mark.skipif(platform.machine() not in ('x86_64', 'AMD64'), reason='the limit is one of x86 instructions')
def test_a_processor_without_bfloat16_units_computes_in_float32():
    """oneDNN, told to do without newer instructions, computes bfloat16 as such a processor does."""
    code = "import torch; from timm_sbs.training.run.precision import *; print(choose_precision(torch.device('cpu')))"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                          env={**os.environ, 'ONEDNN_MAX_CPU_ISA': 'AVX2', 'OMP_NUM_THREADS': '1'})
    assert 'computing in float32' in done.stdout


def test_nothing_large_is_timed_where_the_first_product_is_hopeless(monkeypatch):
    seen = []

    def seconds(call, shapes, dtype, device):
        seen.append(shapes)
        return 1e-3, 0.7

    monkeypatch.setattr(precision, '_seconds', seconds)
    assert relative_speed(torch.bfloat16, CPU) == pytest.approx(1 / 700) and len(seen) == 1


def test_a_slow_precision_that_was_asked_for_is_warned_about(monkeypatch):
    monkeypatch.setattr(precision, 'relative_speed', lambda *_: 1 / 700)
    asked, resumed = settle_precision('bf16'), settle_precision('auto', recorded='bf16')
    assert asked.precision == resumed.precision == 'bf16'
    assert all('takes 700 times as long in bfloat16 as in float32' in choice.warning for choice in (asked, resumed))
    assert 'Without --mixed-precision' in asked.warning and 'A resumed run keeps it' in resumed.warning
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    assert 'Tell it another one' in settle_precision('auto').warning
    assert not settle_precision('no').warning


@pytest.mark.parametrize('ratio', [0.98, 1.1])
def test_what_is_about_as_fast_is_not_warned_about(monkeypatch, ratio):
    monkeypatch.setattr(precision, 'relative_speed', lambda *_: ratio)
    choice = settle_precision('bf16')
    assert str(choice) == 'computing in bfloat16 (as --mixed-precision says)' and not choice.warning


def test_a_hopeless_candidate_is_tried_once(monkeypatch):
    """A call that takes longer than all calls together may take is not repeated."""
    calls = []
    clock = iter(range(10 ** 6))
    monkeypatch.setattr(precision.time, 'perf_counter', lambda: float(next(clock)))
    assert precision._seconds(lambda *_: calls.append(1), [(1,)], torch.bfloat16, CPU) == (1., 1.)
    assert len(calls) == 2


def test_first_calls_do_not_count_where_there_is_time_for_more(monkeypatch):
    """The first call on a GPU loads libraries for longer than all others take."""
    monkeypatch.setattr(precision, '_timed', lambda call, arguments, device: call())
    times = iter([0.1, 0.002] + [0.001, 0.002] * precision.REPEATS)
    assert precision._seconds(lambda *_: next(times), [(1,)], torch.bfloat16, CPU) == (0.001, 0.002)


def test_a_file_in_the_working_directory_says_nothing(tmp_path, monkeypatch):
    (tmp_path / 'progress.json').write_text('{"settings": {"mixed_precision": "fp16"}}')
    monkeypatch.chdir(tmp_path)
    assert recorded_setting(tmp_path, None, 'mixed_precision') is None
    assert recorded_setting(tmp_path, 'latest', 'mixed_precision') is None
    assert recorded_setting(tmp_path, str(tmp_path), 'mixed_precision') == 'fp16'


def test_a_resumed_run_keeps_its_precision(tmp_path, monkeypatch, capsys):
    argv = [*RESNET, '--mixed-precision', 'auto', '--reconstruction-steps', '6', '--checkpointing-steps', '3',
            '--output', str(tmp_path)]
    monkeypatch.setattr(precision, 'relative_speed', lambda *_: 0.5)
    assert main(argv) == 0
    assert load_artifact(tmp_path).results['mixed_precision'] == 'no'
    monkeypatch.setattr(precision, 'relative_speed', lambda *_: 2.)
    assert main([*argv, '--resume', 'latest']) == 0
    assert 'computing in float32 (as before the run was stopped)' in capsys.readouterr().out
