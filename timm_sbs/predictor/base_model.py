"""The base model of an artifact: what timm builds, known by the names, shapes and dtypes of its state dict."""
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from timm_sbs.common.errors import TargetError, short_reason
from timm_sbs.common.limits import LimitedMemory, call_limited, machine_memory
from timm_sbs.predictor.pretrained_cfg import MAX_SIDE, check_input_and_classes, checked_cfg, named_in_cfg

__all__ = [
    'BaseModel', 'Network', 'SkipRandomInit', 'is_counter', 'as_tuples', 'canonical_args', 'named_state', 'first_names',
    'batch_norms', 'kept_names', 'norm_eps',
]

# Arguments of timm.create_model that say where weights come from or what is built around the model: users pass them,
# and no artifact has them.
_NOT_BASE_ARGS = {
    'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'checkpoint_path', 'cache_dir', 'features_only',
    'out_indices', 'num_classes', 'in_chans', 'base', 'model_name', 'device', 'dtype', 'pretrained_strict',
    'pretrained_filter_fn', 'pretrained_model_args', 'kwargs_filter', 'feature_cfg', 'feature_cls', 'pruned',
    'scriptable', 'exportable', 'no_jit',
}
_RANDOM = {torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_,
           nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_}
MAX_INTEGER = 1 << 12  # of arguments; of those that are sizes, MAX_SIDE
MAX_NUMBER = 1 << 16
MAX_TEXT = 256  # characters
MAX_LENGTH = 64  # entries of a list or dict
MAX_MODULES = 8192  # of a base model; timm's largest ones have 2,541
MAX_SECONDS = 8.  # of building it without values; timm's slowest ones take 1.4
MAX_COMPUTED = 1 << 30  # bytes of tensors of a constructor that computes with them
# A network may have so many bytes, and as many more for each byte that is stored: 512 float32 values. Coded zeros take
# next to nothing, so that else a kilobyte could ask for any memory.
FREE_BYTES, BYTES_PER_BYTE = 1 << 26, 2048


class Network(NamedTuple):
    """What is known of a network that timm has built without values.

    Attributes:
        state: Its state dict on the meta device: names, shapes and dtypes. A tensor of several names is the same object
            under each. Floating-point ones are float32, whatever torch's default dtype is, for so an artifact stores
            them.
        norm_eps: See :func:`norm_eps`.
        nbytes: Of its parameters and all of its buffers, also those that no state dict has.
    """
    state: dict[str, Tensor]
    norm_eps: dict[str, float]
    nbytes: int


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
    def network(self) -> Network:
        """What timm builds with these arguments and this description. Built once.

        Raises:
            SbsError: timm does not know the architecture, or cannot build it with these arguments, or it takes too
                much for it; or a field of the description is not what timm expects.
        """
        model = self._built()
        names, described = named_state(model), dict[str, Tensor]()
        for name, first in first_names(names).items():
            dtype = torch.float32 if names[name].is_floating_point() else names[name].dtype
            described[name] = names[name].detach().to('meta', dtype) if first == name else described[first]
        for field in ('first_conv', 'classifier') if self.pretrained_cfg['num_classes'] else ('first_conv',):
            for module in named_in_cfg(self.pretrained_cfg, field):
                if f'{module}.weight' not in described:
                    raise TargetError(
                        f"pretrained_cfg.{field} is '{module}', but '{self.name}' has no weight '{module}.weight'.")
        nbytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        return Network(described, norm_eps(model), nbytes)

    @property
    def state(self) -> dict[str, Tensor]:
        """See :class:`Network`."""
        return self.network.state

    @property
    def norm_eps(self) -> dict[str, float]:
        """See :func:`norm_eps`."""
        return self.network.norm_eps

    def check_size(self, stored: int) -> None:
        """Raises TargetError if the network is larger than this machine's memory, or than what so many bytes of
        model.safetensors may describe."""
        nbytes, most = self.network.nbytes, FREE_BYTES + BYTES_PER_BYTE * stored
        if nbytes > most:
            raise TargetError(
                f"'{self.name}' as it is described takes {nbytes:,} bytes, but the {stored:,} bytes that are stored of "
                f'it may stand for {most:,} at the most.')
        memory = machine_memory()
        if memory is not None and nbytes > memory:
            raise TargetError(f"'{self.name}' takes {nbytes:,} bytes, but this machine has {memory:,} bytes of memory.")

    def _built(self) -> nn.Module:
        """The network, on the meta device if its constructor does not compute with tensors."""
        args = canonical_args(self.args, self.pretrained_cfg)
        described = {**checked_cfg(self.pretrained_cfg), 'architecture': self.name}
        if described.get('label_offset'):
            raise TargetError('pretrained_cfg.label_offset is not 0, but an artifact has no weights of other classes.')
        if not timm.is_model(self.name) or '.' in self.name or self.name.startswith('sbs'):
            raise TargetError(
                f"'{self.name}' is no architecture that timm {timm.__version__} can build. "
                f'Check the name with timm.list_models(), or upgrade timm.')
        too_long = TargetError(f'building it takes more than {MAX_SECONDS:g} seconds')
        built = _Built()

        def create() -> nn.Module:
            try:
                with torch.device('meta'), SkipRandomInit():
                    built.modules = 0
                    return timm.create_model(self.name, pretrained_cfg=described, **args)
            except (RuntimeError, NotImplementedError):  # it may compute with its tensors
                with torch.device('cpu'), LimitedMemory(MAX_COMPUTED):
                    built.modules = 0
                    return timm.create_model(self.name, pretrained_cfg=described, **args)

        handle = register_module_module_registration_hook(built.registered)
        try:
            return call_limited(create, MAX_SECONDS, too_long)
        except Exception as e:
            raise TargetError(f"timm cannot build '{self.name}' with arguments {args}: {short_reason(e)}") from None
        finally:
            handle.remove()


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
        if name in _NOT_BASE_ARGS or not _is_small({name: value}):
            raise TargetError(
                f"Argument '{name}' of the base model is {str(value)[:MAX_TEXT]!r}, which an artifact cannot store. It "
                f"stores None, strings, numbers up to {MAX_NUMBER:,}, integers up to {MAX_INTEGER:,}, sizes up to "
                f"{MAX_SIDE:,}, and short lists and dicts of these. Name layers, as in act_layer='silu'.")
    check_input_and_classes(pretrained_cfg)
    return {**{name: as_tuples(value) for name, value in base_args.items()},
            'num_classes': pretrained_cfg['num_classes'], 'in_chans': pretrained_cfg['input_size'][0]}


def _is_small(value: object, most: int = MAX_INTEGER, depth: int = 0) -> bool:
    """Whether a value is neither large nor long nor deep, nor of a type that JSON does not have."""
    if isinstance(value, dict):
        return depth < 3 and len(value) <= MAX_LENGTH and all(
            isinstance(name, str) and len(name) <= MAX_TEXT
            and _is_small(part, MAX_SIDE if 'size' in name else most, depth + 1) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return depth < 3 and len(value) <= MAX_LENGTH and all(_is_small(part, most, depth + 1) for part in value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return value is None or (isinstance(value, int) and abs(value) <= most) or (
        isinstance(value, float) and abs(value) <= MAX_NUMBER)


def as_tuples(value: Any) -> Any:
    """A value of JSON with tuples for lists, which timm uses."""
    if isinstance(value, dict):
        return {key: as_tuples(part) for key, part in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


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


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """BatchNorms of any dimension by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def norm_eps(model: nn.Module) -> dict[str, float]:
    """What each BatchNorm adds to its variances, by the prefix of its tensors' names, such as 'layer1.0.bn1.'."""
    return {f'{name}.' if name else '': norm.eps for name, norm in batch_norms(model).items()}


class SkipRandomInit(TorchFunctionMode):
    """Leaves new parameters uninitialized: drawing them takes most of the time in which timm builds a model."""

    def __torch_function__(
            self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _RANDOM:
            return args[0] if args else kwargs['tensor']
        return func(*args, **(kwargs or {}))


class _Built(threading.local):
    """What a thread has built of a model. Others, in which a hook of torch is called as well, do not count."""
    modules: int | None = None

    def registered(self, *args: object) -> None:
        """Raises TargetError as soon as there are too many modules."""
        if self.modules is not None:
            self.modules += 1
            if self.modules > MAX_MODULES:
                raise TargetError(f'it has more than {MAX_MODULES:,} modules')
