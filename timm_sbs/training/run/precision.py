"""The precision of a run: what its device has units for."""
import os
from typing import NamedTuple

import torch

from timm_sbs.common.distributed import decided_once, processes

__all__ = ['Choice', 'settle_precision', 'cpu_has_bf16_units']

NAMES = {'no': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}


class Choice(NamedTuple):
    """A precision in accelerate's words, and what a run says of it."""
    precision: str
    told: str


def settle_precision(asked: str, recorded: str | None = None) -> Choice:
    """The precision of a run, which is that of its main process.

    Args:
        asked: One of ``timm_sbs.training.options.settings.PRECISIONS``. 'auto' is what ``accelerate launch`` says,
            else bfloat16 on devices that have units for it, else float16 on GPUs, and float32 elsewhere.
        recorded: What the run had before it was stopped, if it is resumed; 'auto' keeps it.
    """
    state = processes()
    return decided_once(lambda: _chosen(asked, recorded, state.device.type), state)


def _chosen(asked: str, recorded: str | None, device: str) -> Choice:
    launched = os.environ.get('ACCELERATE_MIXED_PRECISION') or 'no'
    has_units = cpu_has_bf16_units() if device == 'cpu' else (
        device == 'cuda' and torch.cuda.is_bf16_supported(including_emulation=False))
    found = f"{'' if has_units else 'no '}bfloat16 units found on this {'CPU' if device == 'cpu' else 'GPU'}"
    if asked != 'auto':
        precision, why = asked, 'as --mixed-precision says'
    elif recorded:
        precision, why = recorded, 'as before the run was stopped'
    elif launched != 'no':
        precision, why = launched, "as 'accelerate launch' says"
    else:
        precision, why = 'bf16' if has_units else 'fp16' if device == 'cuda' else 'no', found
    told = f'computing in {NAMES.get(precision, precision)} ({why}); CPU threads: {torch.get_num_threads()}'
    if precision == 'bf16' and device == 'cpu' and not has_units:
        told += f'\nWARNING: {found}; float32 may be many times as fast.'
    return Choice(precision, told)


def cpu_has_bf16_units() -> bool:
    """Whether the CPU says that it has AVX512-BF16 or AMX. Others compute in bfloat16 up to hundreds of times more
    slowly than in float32."""
    names = '_is_avx512_bf16_supported', '_is_amx_tile_supported'  # private: torch 2.6 has no others
    return any(getattr(torch.cpu, name, bool)() for name in names)
