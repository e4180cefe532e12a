"""The precision of a run: what its device has units for, unless somebody says another."""
import pytest
import torch

from timm_sbs.training import precision
from timm_sbs.training.precision import cpu_has_bf16_units, settle_precision


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
    ('cpu', True, 'bf16', 'computing in bfloat16 (the CPU has bfloat16 units)'),
    ('cpu', False, 'no', 'computing in float32 (the CPU has no bfloat16 units)'),
    ('cuda', True, 'bf16', 'computing in bfloat16 (the GPU has bfloat16 units)'),
    ('cuda', False, 'fp16', 'computing in float16 (the GPU has no bfloat16 units)'),
    ('mps', True, 'no', 'computing in float32')])
def test_a_run_computes_in_what_the_device_has_units_for_and_tells_why(device, kind, has_units, expected, told):
    device(kind, has_units)
    found, sentence = settle_precision('auto')
    assert found == expected and sentence.startswith(told)


def test_what_is_asked_for_or_launched_goes_first(device, monkeypatch):
    device('cpu', True)
    assert settle_precision('no')[0] == 'no'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp16')
    assert settle_precision('auto')[0] == 'fp16' and settle_precision('bf16')[0] == 'bf16'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'no')  # what accelerate launch says if nobody said anything
    assert settle_precision('auto')[0] == 'bf16'


@pytest.mark.parametrize('found', [(False, False), (True, False), (False, True), None])
def test_units_are_those_that_torch_finds(monkeypatch, found):
    for index, name in enumerate(('_is_avx512_bf16_supported', '_is_amx_tile_supported')):  # what torch calls them
        if found is None:  # a torch that cannot say
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda has=found[index]: has, raising=False)
    assert cpu_has_bf16_units() == any(found or ())
