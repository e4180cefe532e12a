"""The precision of a run: what its device has units for."""
import os

import torch

from timm_sbs.common.distributed import decided_once, processes

__all__ = ['settle_precision']

NAMES = {'no': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}


def settle_precision(asked: str) -> tuple[str, str]:
    """The precision of a run in accelerate's words, and what is told of it. It is that of the main process.

    Args:
        asked: A precision, or 'auto': what ``accelerate launch`` says, else bfloat16 on devices that have units for it,
            else float16 on GPUs and float32 elsewhere.
    """
    state = processes()

    def choose() -> tuple[str, str]:
        launched, on_gpu = os.environ.get('ACCELERATE_MIXED_PRECISION') or 'no', state.device.type == 'cuda'
        has_units = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else (
            state.device.type == 'cpu' and cpu_has_bf16_units())
        if asked != 'auto':
            chosen, why = asked, 'as --mixed-precision says'
        elif launched != 'no':
            chosen, why = launched, "as 'accelerate launch' says"
        else:
            chosen = 'bf16' if has_units else 'fp16' if on_gpu else 'no'
            why = f"the {'GPU' if on_gpu else 'CPU'} has {'' if has_units else 'no '}bfloat16 units"
        return chosen, f'computing in {NAMES.get(chosen, chosen)} ({why}), {torch.get_num_threads()} CPU threads'

    return decided_once(choose, state)


def cpu_has_bf16_units() -> bool:
    """Whether the CPU says that it has AVX512-BF16 or AMX. Others compute in bfloat16 up to hundreds of times more
    slowly than in float32."""
    names = '_is_avx512_bf16_supported', '_is_amx_tile_supported'  # private: torch 2.6 has no others
    return any(getattr(torch.cpu, name, bool)() for name in names)
