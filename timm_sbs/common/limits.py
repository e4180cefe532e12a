"""Limits of what code of others may take: time, memory, and the memory of this machine."""
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ['LimitedMemory', 'call_limited', 'machine_memory']

T = TypeVar('T')

_INTERVAL = .1  # seconds between two looks at a clock


class _TooLong(BaseException):  # which no 'except Exception' catches
    pass


def call_limited(call: Callable[[], T], seconds: float, error: Exception) -> T:
    """What a call returns, or ``error`` once it has computed for so long, also within a loop of plain Python. A single
    call of compiled code is waited for.

    It has a thread of its own: no other code is ever interrupted, and torch's modes, which are a thread's own, end with
    it wherever it was.
    """
    lock, over = threading.Lock(), threading.Event()
    clocks, results, errors = list[Callable[[], float]](), list[T](), list[BaseException]()

    def run() -> None:
        try:
            try:
                clocks.append(_clock())
                results.append(call())
            finally:
                with lock:
                    over.set()
        except BaseException as e:
            errors.append(e)

    def interrupt(after: float) -> bool:
        with lock:  # else another thread could have its number by now
            late = not over.is_set() and bool(clocks) and clocks[0]() > after
            if late:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_TooLong))
            return late

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_INTERVAL)
            if interrupt(seconds):
                seconds += 1  # to be told again, where something has caught it
    finally:
        interrupt(0)  # if the caller is interrupted
    if results:
        return results[0]
    raised = errors.pop()
    raise error if isinstance(raised, _TooLong) else raised


def _clock() -> Callable[[], float]:
    """The time that this thread computes from now on, for others to ask; where the system does not tell, the time."""
    read = time.monotonic
    if hasattr(time, 'pthread_getcpuclockid'):
        read = partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))
    start = read()
    return lambda: read() - start


class LimitedMemory(TorchDispatchMode):
    """Raises MemoryError within the block once all tensors that torch has made in it take more than so many bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def __torch_dispatch__(
            self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = {part.untyped_storage().data_ptr() for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        found = func(*args, **(kwargs or {}))
        self._left -= sum(part.untyped_storage().nbytes() for part in tree_leaves(found)
                          if isinstance(part, Tensor) and part.untyped_storage().data_ptr() not in given)
        if self._left < 0:
            raise MemoryError('its tensors take too much memory')
        return found


def machine_memory() -> int | None:
    """Bytes of this machine's memory, or None where the system does not tell."""
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, OSError, ValueError):
        return None
