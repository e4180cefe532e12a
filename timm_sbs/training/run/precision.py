"""The precision of a run, chosen by a measurement: what is fastest on one machine is hundreds of times slower on
another."""
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn import functional as F

__all__ = ['Choice', 'settle_precision', 'choose_precision']

WORTH = 1.2  # times as fast as float32: less than this is no reason to be less precise
HOPELESS = 4.  # times as slow in the first, small product: nothing larger is tried then
REPEATS, ENOUGH = 20, 0.15  # calls of each measurement, and seconds after which no more are made
DTYPES = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class Choice:
    """A precision in accelerate's words, and a sentence that says why."""
    precision: str
    why: str


def settle_precision(asked: str, recorded: str | None = None) -> Choice:
    """The precision of a run, the same on all its processes.

    Args:
        asked: One of ``timm_sbs.training.options.settings.PRECISIONS``.
        recorded: What the run had before it was stopped, if it is resumed; 'auto' keeps it.
    """
    if asked != 'auto':
        return Choice(asked, 'as --mixed-precision says')
    if recorded:
        return Choice(recorded, 'as before the run was stopped')
    if is_initialized():
        return Choice(AcceleratorState().mixed_precision, 'as in this process before, where accelerate keeps one')
    state = PartialState(cpu=not torch.accelerator.is_available())
    if state.num_processes == 1:
        return choose_precision(state.device)
    return broadcast_object_list([choose_precision(state.device) if state.is_main_process else None])[0]


def choose_precision(device: torch.device) -> Choice:
    """The fastest precision that this device computes in.

    What ``accelerate launch`` was told goes first. On a CPU, a matrix product and a convolution are timed in float32
    and in bfloat16, in a fraction of a second. A CPU without bfloat16 units, where torch was measured to be 700 times
    slower, is found by a product of a few milliseconds. GPUs take bfloat16 if they have it, else float16.
    """
    launched = os.environ.get('ACCELERATE_MIXED_PRECISION', 'no')
    if launched not in ('', 'no'):
        return Choice(launched, "as 'accelerate launch' says")
    if device.type == 'cuda':
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice('bf16', 'the GPU has bfloat16 units')
        return Choice('fp16', 'the GPU has no bfloat16 units')
    if device.type != 'cpu':
        return Choice('no', f'on {device.type} nothing else was measured')
    ratio = bfloat16_speed()
    return Choice('bf16' if ratio >= WORTH else 'no', f'bfloat16 is {ratio:.2g} times as fast as float32 here')


def bfloat16_speed() -> float:
    """How many times as fast as float32 the CPU is in bfloat16, in products and convolutions."""
    small = _seconds(torch.mm, [(256, 256), (256, 256)])
    if small[torch.bfloat16] > HOPELESS * small[torch.float32]:
        return small[torch.float32] / small[torch.bfloat16]
    times = [
        _seconds(torch.mm, [(2048, 256), (256, 256)]),
        _seconds(lambda x, w: F.conv2d(x, w, padding=1), [(16, 64, 16, 16), (64, 64, 3, 3)])]
    return sum(t[torch.float32] for t in times) / sum(t[torch.bfloat16] for t in times)


def _seconds(call: Callable[[Tensor, Tensor], Tensor], shapes: list[tuple[int, ...]]) -> dict[torch.dtype, float]:
    """Of one call in each precision: the shortest of some, taken in turn, for other work may share the processor."""
    arguments = {dtype: [torch.ones(shape, dtype=dtype) for shape in shapes] for dtype in DTYPES}
    times: dict[torch.dtype, list[float]] = {dtype: [] for dtype in DTYPES}
    started = time.perf_counter()
    for _ in range(REPEATS):
        for dtype in DTYPES:
            before = time.perf_counter()
            call(*arguments[dtype])
            times[dtype].append(time.perf_counter() - before)
        if time.perf_counter() - started > ENOUGH:
            break
    return {dtype: min(times[dtype]) for dtype in DTYPES}
