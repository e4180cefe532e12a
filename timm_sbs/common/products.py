"""The precision of float32 matrix products, where a device has a faster one than float32's own."""
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ['float32_products']

_lock = threading.RLock()  # torch has one setting for the process


@contextmanager
def float32_products(precision: Literal['ieee', 'tf32']) -> Iterator[None]:
    """Matrix products of float32 within the block, whatever the caller has allowed; afterwards that is back.

    Args:
        precision: 'ieee': of float32 itself, also where another block is open; threads wait for each other. 'tf32': on
            GPUs that have TF32 units, with 10 bits of mantissa instead of 23 and several times as fast; elsewhere
            nothing changes.
    """
    if precision == 'ieee':
        with _lock:
            restore = _set(precision)
            try:
                yield
            finally:
                restore()
    elif torch.cuda.is_available():
        with _lock:
            restore = _set(precision)
        try:
            yield
        finally:
            with _lock:
                restore()
    else:
        yield


def _set(precision: str) -> Callable[[], None]:
    """Set the precision of products, and return what sets it back."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the program has used torch's newer settings, which this older one refuses
        backends: Any = torch.backends
        found = [(backend, backend.fp32_precision) for backend in (backends.cuda.matmul, backends.mkldnn.matmul)]
        for backend, _ in found:
            backend.fp32_precision = precision

        def restore() -> None:
            for backend, value in found:
                backend.fp32_precision = value

        return restore
    torch.set_float32_matmul_precision({'ieee': 'highest', 'tf32': 'high'}[precision])
    return lambda: torch.set_float32_matmul_precision(before)
