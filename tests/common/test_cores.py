import math
import os

import pytest
import torch

from timm_sbs.common import cores
from timm_sbs.common.cores import reader_processes, threads_for_cores, usable_cores


@pytest.fixture()
def machine(monkeypatch, tmp_path):
    """Pretend to be on another one."""
    def be(bound, processes=1, quota=None, accelerated=False):
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(bound)), raising=False)
        monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
        monkeypatch.setattr(torch.accelerator, 'is_available', lambda: accelerated)
        (tmp_path / 'cpu.max').write_text(quota or 'max 100000\n')
        monkeypatch.setattr(cores, '_QUOTAS', ((tmp_path / 'cpu.max',),))

    return be


@pytest.mark.parametrize('bound, quota, found', [
    (16, None, 16), (16, '250000 100000\n', 3), (2, '800000 100000\n', 2), (4, '10000 100000\n', 1),
    (4, 'nonsense', 4)])
def test_usable_cores(machine, bound, quota, found):
    machine(bound, quota=quota)
    assert usable_cores() == found


def test_quota_of_an_older_container(tmp_path, monkeypatch):
    quota, period = tmp_path / 'quota', tmp_path / 'period'
    monkeypatch.setattr(cores, '_QUOTAS', ((tmp_path / 'missing',), (quota, period)))
    assert cores._quota() == math.inf
    period.write_text('100000\n')
    for text, found in (('150000\n', 1.5), ('-1\n', math.inf)):
        quota.write_text(text)
        assert cores._quota() == found


@pytest.mark.parametrize('bound, processes, accelerated, readers', [
    (1, 1, False, 0), (2, 1, False, 0), (4, 1, False, 1), (16, 1, False, 4), (16, 4, False, 1), (128, 1, False, 8),
    (1, 1, True, 1), (2, 1, True, 1), (16, 1, True, 8), (16, 4, True, 3), (8, 8, True, 1)])
def test_readers_leave_cores_to_a_network_on_the_cpu(machine, bound, processes, accelerated, readers):
    machine(bound, processes, accelerated=accelerated)
    assert reader_processes() == readers


@pytest.fixture()
def free_threads(monkeypatch):
    """No environment variable sets them, and torch has four."""
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('bound, processes, recorded, variable, threads', [
    (8, 1, None, None, 4), (2, 1, None, None, 2), (8, 4, None, None, 2), (2, 4, None, None, 1), (8, 1, 3, None, 3),
    (8, 1, 6, None, 6), (2, 1, 3, None, 2), (2, 1, 3, 'OMP_NUM_THREADS', 4), (2, 4, None, 'MKL_NUM_THREADS', 4)])
def test_no_more_threads_than_cores_unless_the_user_says_so(
        machine, free_threads, monkeypatch, bound, processes, recorded, variable, threads):
    machine(bound, processes)
    if variable:
        monkeypatch.setenv(variable, '4')
    with pytest.raises(RuntimeError, match='stop'), threads_for_cores(recorded):
        assert torch.get_num_threads() == threads
        raise RuntimeError('stop')
    assert torch.get_num_threads() == 4
