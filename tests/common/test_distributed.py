"""Work divided among processes, and decisions that one of them makes for all."""
import json

import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY
from processes import launch

from timm_sbs.common import distributed
from timm_sbs.common.distributed import decided_once, processes, share, sum_gradients


class Process:
    def __init__(self, index, count):
        self.process_index, self.num_processes = index, count

    @staticmethod
    def reduce(tensor, reduction):
        """Of two processes that have the same."""
        return 2 * tensor


@pytest.mark.parametrize('count, processes', [(0, 2), (1, 3), (5, 2), (7, 3), (100, 8), (6, 1)])
def test_shares_cover_all_rows_in_order(count, processes):
    rows = list(range(count))
    shares = [rows[share(count, Process(i, processes))] for i in range(processes)]
    assert sum(shares, []) == rows
    assert all(len(s) == len(shares[0]) or not any(shares[i + 1:]) for i, s in enumerate(shares))


def test_one_process_has_everything():
    accelerator = Accelerator(cpu=True)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.)
    sum_gradients([parameter], accelerator)
    assert parameter.grad.tolist() == [3., 3.]
    assert decided_once(lambda: {'bits': (5., 4.)}, accelerator) == {'bits': (5., 4.)}


def test_summed_gradients_are_laid_out_as_their_parameters():
    """torch's fused optimizers ask for it."""
    weights = [torch.nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)),
               torch.nn.Parameter(torch.ones(3, 2).T), torch.nn.Parameter(torch.ones(5))]
    for weight in weights[:2]:
        weight.grad = torch.arange(float(weight.numel())).view_as(weight)
    sum_gradients(weights, Process(0, 2), scale=0.5)
    assert all(weight.grad.stride() == weight.stride() for weight in weights)
    for weight in weights[:2]:
        assert torch.equal(weight.grad, torch.arange(float(weight.numel())).view_as(weight))
    assert weights[2].grad.count_nonzero() == 0


@pytest.mark.parametrize('local, devices, forbidden, expected', [
    (1, 0, '', {'cpu': True}), (4, 4, '', {}), (2, 1, '', {'backend': 'gloo'}), (4, 4, 'true', {'cpu': True})])
def test_processes_communicate_as_their_devices_let_them(monkeypatch, local, devices, forbidden, expected):
    class State:
        def __init__(self, **options):
            self.options, self.local_process_index = options, local - 1

    monkeypatch.setattr(distributed, 'PartialState', State)
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: bool(devices))
    monkeypatch.setattr(torch.accelerator, 'device_count', lambda: devices)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(local))
    monkeypatch.setenv('ACCELERATE_USE_CPU', forbidden)
    state = processes()
    assert state.options == expected
    assert state.local_process_index == ((local - 1) % devices if 'backend' in expected else local - 1)


def test_two_processes_do_what_the_main_one_decides():
    printed = json.loads(launch(2, REPOSITORY / 'tests' / 'decision_worker.py').splitlines()[-1])
    assert printed['calls'] == [1, 0]
    assert printed['decided'] == [{'bits': [5., 4.], 'by': 0}] * 2
    assert printed['refused'] == ['process 0 refuses'] * 2
