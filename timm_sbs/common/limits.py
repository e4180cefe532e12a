"""Limits of what code of others may take: time, memory, and the memory of this machine."""
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ['LimitedMemory', 'limited_time', 'machine_memory']

_INTERVAL = .1  # seconds between two looks at a clock


class _TooLong(BaseException):  # which no 'except Exception' catches
    pass


@contextmanager
def limited_time(seconds: float, error: Exception) -> Iterator[None]:
    """Raises ``error`` in the block once it has computed for so long, also within a loop of plain Python. A single call
    of compiled code is waited for."""
    thread, lock, over = threading.get_ident(), threading.Lock(), threading.Event()
    clock = _clock(thread)
    end = clock() + seconds

    def watch() -> None:
        while not over.wait(_INTERVAL):
            with lock:  # else the block could end in between
                if not over.is_set() and clock() > end:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))
                    return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            with lock:
                over.set()
    except _TooLong:
        raise error from None


def _clock(thread: int) -> Callable[[], float]:
    """The time that a thread has computed; where the system does not tell, the time."""
    if hasattr(time, 'pthread_getcpuclockid'):
        return partial(time.clock_gettime, time.pthread_getcpuclockid(thread))
    return time.monotonic


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
