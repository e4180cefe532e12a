"""A fit inside of another program leaves that as it was, also after an error."""
import os
import random

import numpy as np
import pytest
import torch
from conftest import RESNET20
from processes import run

from timm_sbs.common.errors import SbsError
from timm_sbs.training.fit import fit

QUICK = dict(pct=20, reconstruction_steps=2, quiet=True, order_over='nothing')


def state():
    return (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.is_autocast_enabled('cpu'), torch.is_inference_mode_enabled(), torch.get_float32_matmul_precision(),
            torch.get_rng_state().sum().item(), np.random.get_state()[1].sum(), random.getstate()[1][:5],
            dict(os.environ))


@pytest.fixture(scope='module')
def expected(small_model):
    return fit(small_model, **QUICK).state_dict()


@pytest.fixture(params=['no_grad', 'inference_mode', 'autocast', 'device', 'dtype'])
def surroundings(request):
    if request.param == 'dtype':
        torch.set_default_dtype(torch.bfloat16)
        yield
        torch.set_default_dtype(torch.float32)
    else:
        with {'no_grad': torch.no_grad, 'inference_mode': torch.inference_mode, 'device': lambda: torch.device('meta'),
              'autocast': lambda: torch.autocast('cpu', torch.bfloat16)}[request.param]():
            yield


def test_it_works_in_any_surroundings_and_leaves_them(small_model, expected, surroundings):
    before = state()
    found = fit(small_model, **QUICK)
    with pytest.raises(SbsError):
        fit(small_model, **QUICK, report_to=['clearml'])
    assert state() == before
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])


def test_a_program_keeps_its_accelerator():
    """In a process of its own, for accelerate has one state in each."""
    done = run('-c', (
        'import timm, timm_sbs, torch\nfrom accelerate import Accelerator\n'
        "own = Accelerator(cpu=True, gradient_accumulation_steps=4, mixed_precision='bf16')\n"
        f"model = timm.create_model('resnet20_cifar10', checkpoint_path={str(RESNET20)!r})\n"
        "for precision in ('no', 'bf16'):\n"
        "    artifact = timm_sbs.fit(model, reconstruction_steps=1, quiet=True, mixed_precision=precision,\n"
        "                            order_over='nothing')\n"
        "    assert artifact.results['mixed_precision'] == precision\n"
        'again = Accelerator(cpu=True, gradient_accumulation_steps=4)\n'
        'print(own.gradient_accumulation_steps, own.mixed_precision, again.mixed_precision)'))
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines()[-1] == '4 bf16 bf16'
