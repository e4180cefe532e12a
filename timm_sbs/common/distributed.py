"""Devices and processes of a run, and work divided among them. All hold all parameters, the same after each step."""
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from timm_sbs.common.errors import SbsError

__all__ = [
    'uses_accelerator', 'local_processes', 'processes', 'make_accelerator', 'decided_once', 'share', 'sum_gradients']


def uses_accelerator() -> bool:
    """Whether a run computes on a GPU or the like: there is one, and ``accelerate launch --cpu`` does not forbid it."""
    forbidden = os.environ.get('ACCELERATE_USE_CPU', '').lower() in ('1', 'true', 'yes', 'y', 't', 'on')
    return torch.accelerator.is_available() and not forbidden


def local_processes() -> int:
    """Processes of a run on this machine, as torchrun and ``accelerate launch`` say."""
    return max(1, int(os.environ.get('LOCAL_WORLD_SIZE') or 1))


def processes() -> PartialState:
    """This process among those of the run, as accelerate sees it.

    Processes on CPUs communicate through gloo, which accelerate uses only when it is told to use the CPU. So do
    processes that share a GPU, which NCCL does not support.

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
    """Accelerate's view of devices and :func:`processes`.

    Args:
        mixed_precision: In accelerate's words; None: as ``accelerate launch`` says.
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

    For what processes may see differently, such as whether a file exists: one that decided otherwise would wait for
    the others for ever.
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
    return found[0]


def share(count: int, accelerator: Accelerator) -> slice:
    """This process's part of ``count`` rows. All parts are equally long, apart from the last ones."""
    size = math.ceil(count / accelerator.num_processes)
    start = min(count, accelerator.process_index * size)
    return slice(start, min(count, start + size))


def sum_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator, scale: float = 1.) -> None:
    """Replace gradients by ``scale`` times their sum over all processes, in one message. None counts as zero."""
    parameters = list(parameters)
    if accelerator.num_processes == 1 or not parameters:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    flat = accelerator.reduce(flat, reduction='sum') * scale
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))  # laid out as the parameter
