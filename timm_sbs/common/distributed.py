"""Work shared out over the processes of a run. Each holds all parameters, and ends every step with the same ones."""
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from timm_sbs.common.cores import local_processes
from timm_sbs.common.devices import uses_accelerator
from timm_sbs.common.errors import SbsError

__all__ = ['processes', 'make_accelerator', 'decided_once', 'share', 'gather_shares', 'sum_gradients', 'average']


def processes() -> PartialState:
    """This process among those of the run, as accelerate sees it.

    Several processes on a machine without an accelerator talk through gloo, which accelerate uses only when it is told
    that the CPU is wanted. So do those that share a GPU, for which NCCL has no way.

    Raises:
        SbsError: The processes do not find each other.
    """
    try:
        if not uses_accelerator():
            return PartialState(cpu=True)
        devices = torch.accelerator.device_count()
        if local_processes() <= devices:
            return PartialState()
        state = PartialState(backend='gloo')
        state.local_process_index %= devices  # accelerate's barrier takes it for the number of a GPU
        return state
    except (ValueError, RuntimeError) as e:
        raise SbsError(f'accelerate cannot start: {e}') from e


def make_accelerator(mixed_precision: str | None = None, cpu: bool = False, **kwargs: object) -> Accelerator:
    """Accelerate's view of devices and processes (:func:`processes`).

    Args:
        mixed_precision: In accelerate's words; None: as ``accelerate launch`` says.
        cpu: Leave other devices alone.
        **kwargs: Of :class:`accelerate.Accelerator`.

    Raises:
        SbsError: The device cannot compute in this precision, or accelerate refuses a setting.
    """
    if not cpu:
        processes()
    try:
        return Accelerator(
            mixed_precision=mixed_precision, cpu=cpu or not uses_accelerator(),
            dataloader_config=DataLoaderConfiguration(even_batches=False), **kwargs)
    except (ValueError, RuntimeError) as e:
        raise SbsError(f'accelerate cannot start: {e}') from e


T = TypeVar('T')


def decided_once(decide: Callable[[], T], accelerator: Accelerator | PartialState) -> T:
    """What the main process decides, on every process, or the SbsError that it raises. All have to call this.

    Whatever only one process may see differently, such as whether a file is there yet, is asked for in this way before
    all of them meet: one that decided otherwise would wait for the others without end.
    """
    if accelerator.num_processes == 1:
        return decide()
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = decide()
        except SbsError as e:
            found[1] = e
    broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    decision: T = found[0]
    return decision


def share(count: int, accelerator: Accelerator) -> slice:
    """This process's part of ``count`` rows: all parts are equally long, but for what is missing at the end."""
    size = math.ceil(count / accelerator.num_processes)
    start = min(count, accelerator.process_index * size)
    return slice(start, min(count, start + size))


def gather_shares(rows: Tensor, count: int, accelerator: Accelerator) -> Tensor:
    """All ``count`` rows, on every process, from the part that each has computed: [share, ...] -> [count, ...]."""
    if accelerator.num_processes == 1:
        return rows
    padded = rows.new_zeros(math.ceil(count / accelerator.num_processes), *rows.shape[1:])
    padded[:len(rows)] = rows
    return accelerator.gather(padded)[:count]


def sum_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator, scale: float = 1.) -> None:
    """Replace gradients by ``scale`` times their sum over all processes, in one message. None counts as zero."""
    parameters = list(parameters)
    if accelerator.num_processes == 1 or not parameters:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    flat = accelerator.reduce(flat, reduction='sum') * scale
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))  # laid out as the parameter


def average(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Replace tensors by their mean over all processes, in place."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            tensor.copy_(accelerator.reduce(tensor, reduction='mean'))
