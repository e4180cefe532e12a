import json

import pytest
import torch
from conftest import RESNET

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common import cores
from timm_sbs.train import main
from timm_sbs.training.run import precision
from timm_sbs.training.run.checkpoints import recorded_setting
from timm_sbs.training.run.precision import cpu_has_bf16_units, settle_precision

UNITS = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')  # what torch calls them
TOLD = 'computing in float32 (as before the run was stopped); CPU threads: 3\n'


@pytest.fixture()
def device(monkeypatch):
    """Pretend to compute on another one, and that ``accelerate launch`` says nothing."""
    def be(kind, has_units):
        monkeypatch.delenv('ACCELERATE_MIXED_PRECISION', raising=False)
        monkeypatch.setattr(precision.processes(), 'device', torch.device(kind))
        monkeypatch.setattr(precision, 'cpu_has_bf16_units', lambda: has_units)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: has_units)

    return be


@pytest.mark.parametrize('kind, has_units, expected, told', [
    ('cpu', True, 'bf16', 'computing in bfloat16 (bfloat16 units found on this CPU)'),
    ('cpu', False, 'no', 'computing in float32 (no bfloat16 units found on this CPU)'),
    ('cuda', True, 'bf16', 'computing in bfloat16 (bfloat16 units found on this GPU)'),
    ('cuda', False, 'fp16', 'computing in float16 (no bfloat16 units found on this GPU)'),
    ('mps', True, 'no', 'computing in float32')])
def test_a_run_computes_in_what_the_device_has_units_for_and_tells_why(device, kind, has_units, expected, told):
    device(kind, has_units)
    choice = settle_precision('auto')
    assert choice.precision == expected and choice.told.startswith(told) and 'WARNING' not in choice.told


def test_what_was_launched_asked_or_recorded_goes_first(device, monkeypatch):
    device('cpu', True)
    assert settle_precision('no').precision == 'no'
    assert settle_precision('auto', recorded='no').precision == 'no'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp16')
    assert settle_precision('auto').precision == 'fp16'
    assert settle_precision('bf16', recorded='no').precision == 'bf16'
    assert settle_precision('auto', recorded='no').precision == 'no'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'no')  # what accelerate launch says if nobody said anything
    assert settle_precision('auto').precision == 'bf16'


def test_bfloat16_on_a_cpu_without_units_is_warned_about(device, monkeypatch):
    device('cpu', False)
    for choice in (settle_precision('bf16'), settle_precision('auto', recorded='bf16')):
        assert choice.precision == 'bf16' and choice.told.count('\nWARNING: no bfloat16 units') == 1
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    assert 'WARNING' in settle_precision('auto').told and 'WARNING' not in settle_precision('no').told
    device('cpu', True)
    assert 'WARNING' not in settle_precision('bf16').told


@pytest.mark.parametrize('found', [(False, False), (True, False), (False, True)])
def test_units_are_those_that_torch_finds(monkeypatch, found):
    for name, has in zip(UNITS, found):
        monkeypatch.setattr(torch.cpu, name, lambda has=has: has, raising=False)
    assert cpu_has_bf16_units() == any(found)


def test_a_torch_that_cannot_say_finds_none(monkeypatch):
    for name in UNITS:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not cpu_has_bf16_units()


def test_a_file_in_the_working_directory_says_nothing(tmp_path, monkeypatch):
    (tmp_path / 'progress.json').write_text('{"settings": {"mixed_precision": "fp16"}}')
    monkeypatch.chdir(tmp_path)
    assert recorded_setting(tmp_path, None, 'mixed_precision') is None
    assert recorded_setting(tmp_path, 'latest', 'mixed_precision') is None
    assert recorded_setting(tmp_path, str(tmp_path), 'mixed_precision') == 'fp16'


def test_a_resumed_run_keeps_its_precision_and_its_threads(tmp_path, device, monkeypatch, capsys):
    argv = [*RESNET, '--mixed-precision', 'auto', '--reconstruction-steps', '6', '--checkpointing-steps', '3',
            '--output', str(tmp_path)]
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(cores, 'usable_cores', lambda: 4)
    device('cpu', False)
    torch.set_num_threads(3)
    try:
        assert main(argv) == 0
    finally:
        torch.set_num_threads(1)
    results = load_artifact(tmp_path).results
    assert results['mixed_precision'] == 'no' and results['hardware'].startswith('3 CPU threads')
    progress = json.loads((tmp_path / 'checkpoints' / 'checkpoint-0000003' / 'progress.json').read_text())
    assert progress['choices']['threads'] == 3
    device('cpu', True)
    assert TOLD not in capsys.readouterr().out
    assert main([*argv, '--resume', 'latest']) == 0
    assert TOLD in capsys.readouterr().out and torch.get_num_threads() == 1
