"""The precision of float32 matrix products, where a device has a faster one than float32's own."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ['float32_products']


@contextmanager
def float32_products(precision: Literal['ieee', 'tf32']) -> Iterator[None]:
    """Matrix products of float32 within the block, whatever the caller has allowed them.

    torch keeps this setting for the process; it is what it was when the block ends.

    Args:
        precision: 'ieee': of float32 itself. 'tf32': on GPUs that have TF32 units, with 10 bits of mantissa instead of
            23 and several times as fast; elsewhere nothing changes.
    """
    modules = [torch.backends.cuda, torch.backends.mkldnn] if precision == 'ieee' else [torch.backends.cuda]
    backends: list[Any] = [getattr(module, 'matmul', None) for module in modules]
    if all(hasattr(backend, 'fp32_precision') for backend in backends):  # since torch 2.9
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = precision
            yield
        finally:
            for backend, value in zip(backends, before):
                backend.fp32_precision = value
    else:
        legacy = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision('highest' if precision == 'ieee' else 'high')
            yield
        finally:
            torch.set_float32_matmul_precision(legacy)
