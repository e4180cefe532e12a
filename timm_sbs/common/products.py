"""The precision of float32 matrix products, where a device has a faster one than float32's own."""
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ['float32_products']

_lock = threading.Lock()
_open: list[str] = []  # precisions of the blocks that have not ended yet, in all threads
_restore: Callable[[], None] | None = None  # sets back what the first of them found


@contextmanager
def float32_products(precision: Literal['ieee', 'tf32']) -> Iterator[None]:
    """Matrix products of float32 within the block, whatever the caller has allowed.

    torch has one setting for the process. Where blocks overlap, in one thread or in several, 'ieee' wins; when the last
    one ends, the setting is what it was.

    Args:
        precision: 'ieee': of float32 itself. 'tf32': on GPUs that have TF32 units, with 10 bits of mantissa instead of
            23 and several times as fast; elsewhere nothing changes.
    """
    global _restore
    if precision == 'tf32' and not torch.cuda.is_available():
        yield
        return
    with _lock:
        restore = _set('ieee' if 'ieee' in (precision, *_open) else 'tf32')
        if not _open:
            _restore = restore
        _open.append(precision)
    try:
        yield
    finally:
        with _lock:
            _open.remove(precision)
            if _open:
                _set('ieee' if 'ieee' in _open else 'tf32')
            elif _restore:
                _restore()


def _set(precision: str) -> Callable[[], None]:
    """Set the precision of products, and return what sets it back."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the program has used torch's newer settings, which this older one refuses
        return _set_newer(precision)
    torch.set_float32_matmul_precision({'ieee': 'highest', 'tf32': 'high'}[precision])
    return lambda: torch.set_float32_matmul_precision(before)


def _set_newer(precision: str) -> Callable[[], None]:
    backends: Any = torch.backends
    found = [(backend, backend.fp32_precision) for backend in (backends.cuda.matmul, backends.mkldnn.matmul)]
    for backend, _ in found:
        backend.fp32_precision = precision

    def restore() -> None:
        for backend, value in found:
            backend.fp32_precision = value

    return restore
