"""The trainer as a Python function, which leaves the program that calls it as it was."""
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.distributed import processes
from timm_sbs.common.errors import ConfigError, TargetError
from timm_sbs.common.progress import messages
from timm_sbs.data.augmentation import kept_random_states
from timm_sbs.training.design.given_model import unwrapped
from timm_sbs.training.flat_settings import read_yaml, settings_of
from timm_sbs.training.settings import Settings
from timm_sbs.training.train import train

__all__ = ['fit']

Folders = str | Path | Sequence[str | Path]


def fit(
        model: str | nn.Module,
        pct: float | None = None,
        *,
        bytes: int | str | None = None,
        images: Folders = (),
        output: str | Path | None = None,
        config: str | Path | None = None,
        quiet: bool = False,
        **fields: Any,
) -> Artifact:
    """Fit a predictor to the weights of a timm model, or round them.

    Args:
        model: A timm model with its trained weights, in any floating-point precision, which stays as it is; or the name
            of one, whose pretrained weights timm then loads. An artifact stores float32.
        pct: Make a predictor with this percentage of the model's parameters; default: 20.
        bytes: Round all weights instead, so that both files of the artifact take this many bytes: 64_000 or '1.6M'.
        images: Folder or folders of training images. Labels are not needed: all images in all subfolders are used.
        output: Folder of the best artifact and of everything else that a run writes; default: nothing is written.
        config: YAML file of settings, or the name of one that ships, such as 'cifar10'; arguments overrule it.
        quiet: Suppress output.
        **fields: Other settings, by the names of their flags with underscores: ``distillation_steps=1000``,
            ``data_dir='imagenet'``. ``timm-sbs train --help`` lists them; :mod:`timm_sbs.training.settings` has all.

    Returns:
        The artifact: of those of the run, the one that did best on held-out training images.

    Raises:
        SbsError: Something about the request is wrong.

    Example:
        >>> model = timm.create_model('resnet18', pretrained=True)
        >>> artifact = timm_sbs.fit(model, pct=15)
        >>> artifact.save('out')
        >>> smaller = timm_sbs.fit(model, bytes='1.6M', images='imagenet/train')
    """
    with messages(quiet), _undisturbed_caller():
        settings, original = _request(model, dict(pct=pct, bytes=bytes, images=images, output=output), fields, config)
        if output is None and processes().num_processes > 1:
            raise ConfigError('Several processes need one folder to write to: pass output=FOLDER.')
        return train(settings, original)


def _request(
        model: str | nn.Module,
        given: dict[str, Any],
        fields: dict[str, Any],
        config: str | Path | None,
) -> tuple[Settings, nn.Module | None]:
    """The settings, and the model to take the weights from. Of ``given``, what is None or empty was not given."""
    values = {**fields, **{name: value for name, value in given.items() if value not in (None, ())}}
    default = settings_of(read_yaml(str(config)), str(config)) if config else Settings()
    if isinstance(model, str):
        return settings_of({**values, 'model': model}, 'The call of fit()', default), None
    original = unwrapped(model) if isinstance(model, nn.Module) else None
    description = getattr(original, 'pretrained_cfg', None)
    if original is None or not isinstance(description, dict):
        raise TargetError('The model to fit must be one that timm.create_model has made, or the name of one.')
    if values.get('initial_checkpoint'):
        raise ConfigError('initial_checkpoint has no effect: the model has its weights already. Leave it out.')
    name = {'model': description.get('architecture', '')}
    return settings_of({**values, **name}, 'The call of fit()', default), original


@contextmanager
def _undisturbed_caller() -> Iterator[None]:
    """Within the block a run has settings of its own, whatever the caller has set; afterwards, also after an error,
    all is as it was.

    accelerate keeps precision and gradient accumulation once for a process, and would give a run those of the caller.
    Processes that talk to each other go on doing so.
    """
    with ExitStack() as stack:
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
        for state in (PartialState, AcceleratorState, GradientState):
            stack.callback(_restore, state, dict(state._shared_state))
        for state in (AcceleratorState, GradientState):
            state._shared_state.clear()
        yield


def _restore(state: Any, values: dict[str, Any]) -> None:
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    if values or state is not PartialState or not connected:  # else the run has connected the processes; they stay so
        state._shared_state.clear()
        state._shared_state.update(values)
