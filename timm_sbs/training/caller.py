"""What a run inside of another program leaves as it was: settings of torch and accelerate, and random states."""
import contextlib
from collections.abc import Iterator

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from timm_sbs.data.batches import kept_random_states

__all__ = ['undisturbed_caller']


@contextlib.contextmanager
def undisturbed_caller() -> Iterator[None]:
    """Within the block a run has settings of its own, whatever the caller has set; afterwards, also after an error,
    all is as it was.

    accelerate keeps precision and gradient accumulation once for a process, and would give a run those of the caller.
    Processes that talk to each other go on doing so.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_random_states())
        if torch.cuda.is_available():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != 'cpu':
            stack.enter_context(torch.device('cpu'))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ('cpu', 'cuda'):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_own_accelerate())
        yield


@contextlib.contextmanager
def _own_accelerate() -> Iterator[None]:
    kept = {state: dict(state._shared_state) for state in (PartialState, AcceleratorState, GradientState)}
    for state in (AcceleratorState, GradientState):
        state._shared_state.clear()
    try:
        yield
    finally:
        if kept[PartialState] == {} and torch.distributed.is_available() and torch.distributed.is_initialized():
            del kept[PartialState]  # the run has connected the processes, and they stay so
        for state, values in kept.items():
            state._shared_state.clear()
            state._shared_state.update(values)
