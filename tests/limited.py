"""A call in a process of its own, with limits of memory and time, and what it took (Linux)."""
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GIGABYTE = 1 << 30
MEMORY = 4 * GIGABYTE  # of addresses beyond those in use
SECONDS = 60  # of CPU time, after which a process is killed


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes:
        result: What it returned, JSON-ready; None if it did not end.
        printed: What it wrote to the terminal.
        memory: Bytes of its peak above what the process had before.
        seconds: Of CPU time.
        killed: The signal that ended it, 0 if none did.
    """
    result: Any
    printed: str
    memory: int
    seconds: float
    killed: int


def limited(call: Callable[[], Any]) -> Outcome:
    """Call a function in a fork of this process, which must have no other threads at work.

    Args:
        call: Returns something JSON-ready. An exception of it is a bug of the caller, and printed.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as answer:
        sys.stdout.flush(), sys.stderr.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(printed.fileno(), 1), os.dup2(printed.fileno(), 2)
                sys.stdout, sys.stderr = (os.fdopen(number, 'w', closefd=False) for number in (1, 2))
                before = _limit()
                result = call()
                sys.stdout.flush(), sys.stderr.flush()
                answer.write(json.dumps([result, _status('VmHWM') - before]).encode())
                answer.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        _, status, usage = os.wait4(child, 0)
        answer.seek(0), printed.seek(0)
        result, peak = json.loads(answer.read() or b'[null, 0]')
        return Outcome(result, printed.read().decode('utf-8', 'replace'), peak, usage.ru_utime + usage.ru_stime,
                       os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def _limit() -> int:
    """Set the limits, and forget the peak of memory so far. Returns the bytes in use."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_status('VmSize') + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(20 * SECONDS)
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')
    return _status('VmRSS')


def _status(name: str) -> int:
    with open('/proc/self/status') as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f'{name}:'))
