"""How many processes read images, on machines with few and many cores, with and without a GPU."""
import os

import pytest
import torch

from timm_sbs.common.cores import reader_processes, uses_accelerator


@pytest.mark.parametrize('cores, processes, accelerated, readers', [
    (1, 1, False, 0), (4, 1, False, 1), (16, 4, False, 1), (128, 1, False, 8),
    (1, 1, True, 1), (16, 1, True, 8), (16, 4, True, 3), (8, 8, True, 1)])
def test_readers_leave_cores_to_a_network_on_the_cpu(monkeypatch, cores, processes, accelerated, readers):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: accelerated)
    assert reader_processes() == readers and uses_accelerator() == accelerated
    monkeypatch.setenv('ACCELERATE_USE_CPU', 'true')
    assert not uses_accelerator()
