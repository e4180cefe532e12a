"""A fit inside of another program leaves that as it was, also after an error."""
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from conftest import RESNET20

from timm_sbs.common.errors import SbsError
from timm_sbs.training.fit import fit

QUICK = dict(pct=20, reconstruction_steps=2, quiet=True)


@pytest.fixture(scope='module')
def model():
    return timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20)


def state():
    return (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.is_autocast_enabled('cpu'), torch.is_inference_mode_enabled(), torch.get_float32_matmul_precision(),
            torch.get_rng_state().sum().item(), np.random.get_state()[1].sum(), random.getstate()[1][:5],
            dict(os.environ))


def in_bfloat16():
    torch.set_default_dtype(torch.bfloat16)


@pytest.mark.parametrize('surroundings', [
    torch.no_grad, torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16), lambda: torch.device('meta')],
    ids=['no_grad', 'inference_mode', 'autocast', 'default device'])
@pytest.mark.parametrize('wrong', [{}, {'report_to': ['comet_ml']}])
def test_it_works_in_any_surroundings_and_leaves_them(model, surroundings, wrong):
    expected = fit(model, **QUICK).state_dict() if not wrong else None
    with surroundings():
        before = state()
        try:
            found = fit(model, **QUICK, **wrong)
        except SbsError:
            assert wrong
        assert state() == before
    if not wrong:
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_another_default_dtype(model):
    expected = fit(model, **QUICK).state_dict()
    torch.set_default_dtype(torch.bfloat16)
    try:
        artifact = fit(model, **QUICK)
        found = artifact.state_dict()
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype
               for name, tensor in found.items())


@pytest.mark.parametrize('owns', ['gradient_accumulation_steps=4', "mixed_precision='bf16'"])
def test_a_program_keeps_its_accelerator(owns):
    """In a process of its own, for accelerate has one state in each."""
    code = (
        'import timm, timm_sbs, torch\nfrom accelerate import Accelerator\n'
        f'own = Accelerator(cpu=True, {owns})\n'
        f"model = timm.create_model('resnet20_cifar10', checkpoint_path={str(RESNET20)!r})\n"
        "for precision in ('no', 'bf16', 'no'):\n"
        '    artifact = timm_sbs.fit(model, pct=20, reconstruction_steps=2, quiet=True, mixed_precision=precision)\n'
        "    assert artifact.results['mixed_precision'] == precision\n"
        f'again = Accelerator(cpu=True, {owns})\n'
        'print(own.gradient_accumulation_steps, own.mixed_precision, again.mixed_precision)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.split() == (['4', 'no', 'no'] if 'gradient' in owns else ['1', 'bf16', 'bf16'])
