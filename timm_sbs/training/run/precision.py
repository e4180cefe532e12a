"""The precision of a run, chosen by a measurement: what is fastest on one machine is hundreds of times slower on
another."""
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_sbs.common.devices import now
from timm_sbs.common.distributed import decided_once, processes

__all__ = ['Choice', 'settle_precision', 'choose_precision', 'relative_speed']

WORTH = 1.2  # times as fast as float32: less than this is no reason to be less precise
HOPELESS = 4.  # times as slow in the first, small product: nothing larger is tried then
REPEATS, ENOUGH = 20, 0.15  # calls of each measurement, and seconds after which no more are made
DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
NAMES = {'no': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}


@dataclass(frozen=True)
class Choice:
    """A precision in accelerate's words, a clause that says why, and what is wrong with it."""
    precision: str
    why: str
    warning: str = ''

    def __str__(self) -> str:
        return f'computing in {NAMES.get(self.precision, self.precision)} ({self.why})'


def settle_precision(asked: str, recorded: str | None = None) -> Choice:
    """The precision of a run, the same on all its processes. The main one measures, in well under a second.

    Args:
        asked: One of ``timm_sbs.training.options.settings.PRECISIONS``.
        recorded: What the run had before it was stopped, if it is resumed; 'auto' keeps it.
    """
    state = processes()

    def settle() -> Choice:
        if asked != 'auto':
            return _forced(
                asked, 'as --mixed-precision says', 'Without --mixed-precision a run takes the fastest.',
                state.device)
        if recorded:
            return _forced(recorded, 'as before the run was stopped', 'A resumed run keeps it.', state.device)
        return choose_precision(state.device)

    return decided_once(settle, state)


def choose_precision(device: torch.device) -> Choice:
    """The fastest precision that this device computes in.

    What ``accelerate launch`` was told goes first. On a CPU, a matrix product and a convolution are timed in float32
    and in bfloat16, in a fraction of a second. A CPU without bfloat16 units, where torch was measured to be 700 times
    slower, is found by a product of a few milliseconds. GPUs take bfloat16 if they have it, else float16.
    """
    launched = os.environ.get('ACCELERATE_MIXED_PRECISION', 'no')
    if launched not in ('', 'no'):
        return _forced(launched, "as 'accelerate launch' says", 'Tell it another one.', device)
    if device.type == 'cuda':
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice('bf16', 'the GPU has bfloat16 units')
        return Choice('fp16', 'the GPU has no bfloat16 units')
    if device.type != 'cpu':
        return Choice('no', f'on {device.type} nothing else was measured')
    ratio = relative_speed(torch.bfloat16, device)
    told = f'{ratio:.1f} times as fast' if ratio >= 1 else f'{_inverse(ratio)} times as slow'
    return Choice('bf16' if ratio >= WORTH else 'no', f'bfloat16 is {told} as float32 here')


def _forced(precision: str, why: str, advice: str, device: torch.device) -> Choice:
    """A precision that is not to be chosen, with a warning if float32 is clearly faster."""
    if precision not in DTYPES:
        return Choice(precision, why)
    try:
        ratio = relative_speed(DTYPES[precision], device)
    except (RuntimeError, TypeError):  # the device cannot compute in it, and accelerate will say so
        return Choice(precision, why)
    if ratio > 1 / WORTH:
        return Choice(precision, why)
    return Choice(precision, why, (
        f'WARNING: a matrix product takes {_inverse(ratio)} times as long in {NAMES[precision]} as in float32 on this '
        f'machine. {advice}'))


def _inverse(ratio: float) -> str:
    return f'{1 / ratio:.1f}' if 10 * ratio > 1 else f'{1 / ratio:.0f}'


def relative_speed(dtype: torch.dtype, device: torch.device) -> float:
    """How many times as fast as float32 a device is in ``dtype``, in products and convolutions."""
    small = _seconds(torch.mm, [(256, 256), (256, 256)], dtype, device)
    if device.type == 'cpu' and small[1] > HOPELESS * small[0]:
        return small[0] / small[1]
    times = [
        _seconds(torch.mm, [(2048, 256), (256, 256)], dtype, device),
        _seconds(lambda x, w: F.conv2d(x, w, padding=1), [(16, 64, 16, 16), (64, 64, 3, 3)], dtype, device)]
    return sum(t[0] for t in times) / sum(t[1] for t in times)


def _seconds(
        call: Callable[[Tensor, Tensor], Tensor],
        shapes: list[tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device,
) -> tuple[float, float]:
    """Of one call in float32 and in ``dtype``: the shortest of some, in turn, for other work may share the device.

    The first calls warm up: on a GPU libraries are loaded. They count only where there is no time for more.
    """
    arguments = [[torch.ones(shape, dtype=kind, device=device) for shape in shapes] for kind in (torch.float32, dtype)]
    warm_up = _timed(call, arguments[0], device), _timed(call, arguments[1], device)
    if device.type == 'cpu' and max(warm_up) > ENOUGH:
        return warm_up
    times: list[tuple[float, float]] = []
    started = time.perf_counter()
    for _ in range(REPEATS):
        times.append((_timed(call, arguments[0], device), _timed(call, arguments[1], device)))
        if time.perf_counter() - started > ENOUGH:
            break
    return min(t[0] for t in times), min(t[1] for t in times)


def _timed(call: Callable[[Tensor, Tensor], Tensor], arguments: list[Tensor], device: torch.device) -> float:
    before = now(device)
    call(*arguments)
    return now(device) - before
