"""Limits of time and memory."""
import threading
import time

import pytest
import torch

from timm_sbs.common.errors import TargetError
from timm_sbs.common.limits import LimitedMemory, call_limited


def forever():
    while True:
        try:
            for _ in range(1 << 40):
                pass
        except Exception:
            pass


def test_a_loop_without_end_has_one():
    start = time.monotonic()
    with pytest.raises(TargetError, match='too long'):
        call_limited(forever, .2, TargetError('too long'))
    assert time.monotonic() - start < 30


def test_other_threads_and_what_comes_later_are_left_alone():
    done = []

    def work():
        time.sleep(.5)
        done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(50):
        assert call_limited(lambda: 5, .01, TargetError('too long')) == 5
    with pytest.raises(TargetError):
        call_limited(forever, .1, TargetError('too long'))
    thread.join()
    assert sum(range(1_000_000)) and done == [1]


def test_an_exception_of_the_call_is_its_own():
    with pytest.raises(KeyError, match='x'):
        call_limited(lambda: {}['x'], 10, TargetError('too long'))


def test_a_call_that_catches_everything_is_told_again():
    caught = []

    def stubborn():
        try:
            forever()
        except BaseException:
            caught.append(1)
        forever()

    with pytest.raises(TargetError):
        call_limited(stubborn, .1, TargetError('too long'))
    assert caught == [1]


def test_what_is_interrupted_leaves_no_mode_of_torch_behind():
    def entered():
        torch.device('meta').__enter__()  # as if it were interrupted on its way out
        forever()

    with pytest.raises(TargetError):
        call_limited(entered, .1, TargetError('too long'))
    assert not torch.zeros(1).is_meta


def test_a_call_ends_with_its_caller(monkeypatch):
    def interrupted(thread, timeout):
        monkeypatch.undo()
        time.sleep(.2)
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    monkeypatch.setattr(threading.Thread, 'join', interrupted)
    with pytest.raises(KeyboardInterrupt):
        call_limited(forever, 1000, TargetError('too long'))
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(20)
    assert not any(thread.is_alive() for thread in left)


def test_memory_of_all_tensors_counts_once():
    with LimitedMemory(1 << 20):
        whole = torch.zeros(1 << 17)
        for _ in range(100):
            whole.view(2, -1)[0].add_(1)
        with pytest.raises(MemoryError):
            torch.zeros(1 << 19)
