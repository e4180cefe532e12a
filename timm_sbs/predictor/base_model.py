"""The base model of an artifact: what timm builds, known by the names, shapes and dtypes of its state dict."""
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from timm_sbs.common.errors import TargetError

__all__ = [
    'BaseModel', 'SkipRandomInit', 'is_counter', 'canonical_args', 'named_state', 'first_names', 'kept_names',
    'norm_eps', 'pretrained_cfg_of',
]

# Arguments of timm.create_model that say where weights come from or what is built around the model: users pass them,
# and no artifact has them.
_NOT_BASE_ARGS = {
    'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'checkpoint_path', 'cache_dir', 'features_only',
    'out_indices', 'num_classes', 'in_chans', 'base', 'model_name', 'device', 'dtype',
}
_RANDOM = {torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_,
           nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_}
MAX_CLASSES = 1 << 20
MAX_SIDE = 1 << 12  # of an image, and channels
MAX_NUMBER = 1 << 16  # of other arguments: building a billion layers would take hours
MAX_TEXT = 256  # characters
MAX_LENGTH = 64  # entries of a list or dict
MAX_MODULES = 20_000  # of a base model; timm's largest ones have a few thousand


@dataclass(frozen=True)
class BaseModel:
    """The network whose weights an artifact has: what timm builds, and timm's description of the original weights.

    Attributes:
        name: timm's name of the architecture.
        args: Arguments of the architecture.
        pretrained_cfg: timm's description: input size, normalisation, classes, licence and so on.
    """
    name: str
    args: dict[str, Any]
    pretrained_cfg: dict[str, Any]

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Its state dict on the meta device: names, shapes and dtypes, without memory for values. Built once.

        A tensor of several names is the same object under each. Floating-point ones are float32, whatever torch's
        default dtype is, for so an artifact stores them.

        Raises:
            TargetError: timm does not know the architecture, or cannot build it with these arguments.
        """
        state = named_state(self._built())
        described: dict[str, Tensor] = {}
        for name, first in first_names(state).items():
            dtype = torch.float32 if state[name].is_floating_point() else state[name].dtype
            described[name] = state[name].detach().to('meta', dtype) if first == name else described[first]
        return described

    @cached_property
    def norm_eps(self) -> dict[str, float]:
        """See :func:`norm_eps`. The network is built once more for it."""
        return norm_eps(self._built())

    def _built(self) -> nn.Module:
        """The network, on the meta device if its constructor does not compute with tensors."""
        args = canonical_args(self.args, self.pretrained_cfg)
        if not timm.is_model(self.name) or self.name.startswith('sbs'):
            raise TargetError(
                f"'{self.name}' is no architecture that timm {timm.__version__} can build. "
                f'Check the name with timm.list_models(), or upgrade timm.')
        try:
            with _limited_modules():
                try:
                    with torch.device('meta'), SkipRandomInit():
                        return timm.create_model(self.name, **args)
                except (RuntimeError, NotImplementedError):  # some constructors compute with their tensors
                    return timm.create_model(self.name, **args)
        except Exception as e:
            raise TargetError(f"timm cannot build '{self.name}' with arguments {args}: {e}") from e


def is_counter(name: str) -> bool:
    """Whether a state dict entry is BatchNorm's step counter, which inference ignores and an artifact leaves out."""
    return name.endswith('num_batches_tracked')


def canonical_args(base_args: Mapping[str, Any], pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that build the base model as it was fitted: its own, and the original's classes and channels. Lists
    become tuples, which timm uses.

    Raises:
        TargetError: An artifact cannot have such an argument, or its value is out of range.
    """
    for name, value in base_args.items():
        if name in _NOT_BASE_ARGS or not _is_small(value):
            raise TargetError(
                f"Argument '{name}' of the base model is {str(value)[:MAX_TEXT]!r}, which an artifact cannot store. It "
                f"stores None, strings, numbers up to {MAX_NUMBER:,}, and short lists and dicts of these. Name layers, "
                f"as in act_layer='silu'.")
    num_classes = pretrained_cfg.get('num_classes')
    input_size = pretrained_cfg.get('input_size')
    if not _is_int(num_classes, 0, MAX_CLASSES):
        raise TargetError(f'pretrained_cfg.num_classes is {num_classes!r}, but must be from 0 to {MAX_CLASSES}.')
    if not (isinstance(input_size, (list, tuple)) and len(input_size) == 3
            and all(_is_int(size, 1, MAX_SIDE) for size in input_size)):
        raise TargetError(f'pretrained_cfg.input_size is {input_size!r}, but must be [channels, height, width], each '
                          f'up to {MAX_SIDE:,}.')
    return {**{name: _as_tuple(value) for name, value in base_args.items()},
            'num_classes': num_classes, 'in_chans': input_size[0]}


def _is_small(value: object, depth: int = 0) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_small(key) for key in value) and _is_small(list(value.values()), depth)
    if isinstance(value, (list, tuple)):
        return depth < 2 and len(value) <= MAX_LENGTH and all(_is_small(part, depth + 1) for part in value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return value is None or (isinstance(value, (int, float)) and abs(value) <= MAX_NUMBER)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tuple(part) for key, part in value.items()}
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


def _is_int(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def pretrained_cfg_of(model: nn.Module) -> dict[str, Any]:
    """timm's description of a model's weights: the model's own dict.

    Raises:
        TargetError: The model has none, so timm has not made it.
    """
    pretrained_cfg = getattr(model, 'pretrained_cfg', None)
    if not isinstance(pretrained_cfg, dict):
        raise TargetError(f'{type(model).__name__} has no pretrained_cfg, as models of timm.create_model have.')
    return pretrained_cfg


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with the model's own tensors, so that a tensor of several names is the same object under each."""
    return model.state_dict(keep_vars=True)


def first_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The first name of each entry's tensor: not its own where modules or parameters are shared."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def kept_names(state: Mapping[str, Tensor], generated: Iterable[str]) -> list[str]:
    """Entries of :func:`named_state` or :attr:`BaseModel.state` that are neither generated nor counters nor second
    names of a tensor."""
    generated = set(generated)
    return [
        name for name, first in first_names(state).items()
        if name == first and name not in generated and not is_counter(name)]


def norm_eps(model: nn.Module) -> dict[str, float]:
    """What each BatchNorm adds to its variances, by the prefix of its tensors' names, such as 'layer1.0.bn1.'."""
    return {f'{name}.' if name else '': module.eps for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)}


class SkipRandomInit(TorchFunctionMode):
    """Leaves new parameters uninitialized: drawing them takes most of the time in which timm builds a model."""

    def __torch_function__(
            self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _RANDOM:
            return args[0] if args else kwargs['tensor']
        return func(*args, **(kwargs or {}))


@contextmanager
def _limited_modules() -> Iterator[None]:
    """Raises TargetError within the block as soon as a model has too many modules."""
    numbers = itertools.count(1)

    def registered(*args: object) -> None:
        if next(numbers) > MAX_MODULES:
            raise TargetError(f'it has more than {MAX_MODULES:,} modules')

    handle = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()
