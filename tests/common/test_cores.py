import math
import os

import pytest
import torch

from timm_sbs.common import cores
from timm_sbs.common.cores import reader_processes, usable_cores


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
