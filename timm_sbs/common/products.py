"""The precision of float32 matrix products, where a device has a faster one than float32's own."""
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ['float32_products']

_lock = threading.Lock()
_exact = 0  # blocks that need float32 itself, in all threads
_restore: Callable[[], None] | None = None  # sets back what the first of them found


@contextmanager
def float32_products(precision: Literal['ieee', 'tf32']) -> Iterator[None]:
    """Matrix products of float32 within the block, whatever the caller has allowed them.

    torch keeps this setting for the process; it is what it was when the block ends. Of 'ieee' blocks in several
    threads, the last one to end does that.

    Args:
        precision: 'ieee': of float32 itself. 'tf32': on GPUs that have TF32 units, with 10 bits of mantissa instead of
            23 and several times as fast; elsewhere nothing changes.
    """
    global _exact, _restore
    if precision == 'tf32':
        restore = _set('high') if torch.cuda.is_available() else None
        try:
            yield
        finally:
            if restore:
                restore()
        return
    with _lock:
        if not _exact:
            _restore = _set('highest')
        _exact += 1
    try:
        yield
    finally:
        with _lock:
            _exact -= 1
            if _restore and not _exact:
                _restore()


def _set(precision: Literal['highest', 'high']) -> Callable[[], None]:
    """Set the precision of products, and return what sets it back.

    torch refuses its older function to who has used its newer settings, and the other way round.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _set_each({'highest': 'ieee', 'high': 'tf32'}[precision])
    torch.set_float32_matmul_precision(precision)
    return lambda: torch.set_float32_matmul_precision(before)


def _set_each(precision: str) -> Callable[[], None]:
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, 'matmul', None)]
    before = [(backend, backend.fp32_precision) for backend in backends if backend is not None]
    for backend, _ in before:
        backend.fp32_precision = precision

    def restore() -> None:
        for backend, value in before:
            backend.fp32_precision = value

    return restore
