"""Limits of time and memory."""
import threading
import time

import pytest
import torch

from timm_sbs.common.errors import TargetError
from timm_sbs.common.limits import LimitedMemory, limited_time


def forever():
    while True:
        try:
            for _ in range(1 << 40):
                pass
        except Exception:
            pass


def test_a_loop_without_end_has_one():
    start = time.monotonic()
    with pytest.raises(TargetError, match='too long'), limited_time(.2, TargetError('too long')):
        forever()
    assert time.monotonic() - start < 30


def test_other_threads_and_what_comes_later_are_left_alone():
    done = []

    def work():
        time.sleep(.5)
        done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(50):
        with limited_time(.01, TargetError('too long')):
            pass
    with pytest.raises(TargetError), limited_time(.1, TargetError('too long')):
        forever()
    thread.join()
    assert sum(range(1_000_000)) and done == [1]


def test_an_exception_in_the_block_is_its_own():
    with pytest.raises(KeyError), limited_time(10, TargetError('too long')):
        raise KeyError('x')


def test_memory_of_all_tensors_counts_once():
    with LimitedMemory(1 << 20):
        whole = torch.zeros(1 << 17)
        for _ in range(100):
            whole.view(2, -1)[0].add_(1)
        with pytest.raises(MemoryError):
            torch.zeros(1 << 19)
