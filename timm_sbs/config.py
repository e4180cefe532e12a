"""Settings of a predictor: frozen dataclasses, checked on construction, and their JSON form. Imports no torch."""
import dataclasses
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple, Type, TypeVar, Union, get_args, get_origin, get_type_hints

from timm_sbs.errors import ConfigError

__all__ = [
    'FORMAT_VERSION', 'POINTWISE_SIZE', 'LARGEST_TOKEN', 'OrderingConfig', 'EncodingConfig', 'PredictorConfig',
    'TargetRule', 'QuantizationConfig', 'SbsConfig', 'byte_count', 'to_dict', 'from_dict',
]

# Version of the artifact's layout. A reader refuses what is newer than itself.
FORMAT_VERSION = 1
# Input channels that form one token where kernels have a single value: 1x1 convolutions and linear layers.
POINTWISE_SIZE = 8
LARGEST_TOKEN = 64  # values; larger kernels are cut into their rows
FOLDS = (1, 4, 16, 64, 256)  # kernels at a place; few numbers, for each has an output layer of its own

GRANULARITIES = ('layer', 'filter', 'axis', 'none')
COORDINATES = ('path', 'grid')
ENCODINGS = ('random_fourier', 'positional')
ACTIVATIONS = ('gelu', 'relu', 'sine')
STORAGE_DTYPES = ('float32', 'float16', 'bfloat16')

_UNITS = {'': 1, 'k': 1000, 'm': 1000_000, 'ki': 1024, 'mi': 1024 ** 2}

ConfigT = TypeVar('ConfigT')


def _require_choice(name: str, value: str, choices: Tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is '{value}', but must be one of: {', '.join(choices)}.")


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses what is no number
        raise ConfigError(f'{name} is {value}, but must be from {low:g} to {high:g}.')


@dataclass(frozen=True)
class OrderingConfig:
    """In which order the kernels of a layer are laid out before a predictor generates them.

    ``granularity='layer', coordinates='path'`` is UOS: one path over all kernels of a layer, one coordinate for each.
    NeRN's three choices are ``none``, ``filter`` ('in-filter') and ``layer`` with ``coordinates='grid'``
    ('cross-filter': the path is folded back into rows of a (filter, channel) grid).
    """
    granularity: str = 'layer'  # what one path runs over: a layer's kernels, each filter's, its two axes, nothing
    coordinates: str = 'path'  # 'path': (layer, place on the path); 'grid': (layer, row, column)
    max_places: int = 0  # of a layer; where it has more kernels, several are generated at each place. 0: no limit

    def __post_init__(self) -> None:
        _require_choice('ordering.granularity', self.granularity, GRANULARITIES)
        _require_range('ordering.max_places', self.max_places, 0, 1 << 31)
        _require_choice('ordering.coordinates', self.coordinates, COORDINATES)
        if self.coordinates == 'path' and self.granularity != 'layer':
            raise ConfigError(
                f"ordering.coordinates='path' needs ordering.granularity='layer', but it is '{self.granularity}'. "
                f"Use coordinates='grid'.")

    @property
    def num_axes(self) -> int:
        """Coordinates of a kernel inside its layer: 1 for a path, 2 for a grid."""
        return 1 if self.coordinates == 'path' else 2


@dataclass(frozen=True)
class EncodingConfig:
    """How coordinates become the features that a predictor reads.

    ``random_fourier`` with ``bandwidth_exponent > 0`` is UOS-RFF, with 0 it is plain RFF (one bandwidth for all
    layers). ``positional`` is NeRN's encoding with its published base and levels.
    """
    kind: str = 'random_fourier'
    num_frequencies: int = 64  # random_fourier: frequencies; the feature width is twice this
    layer_bandwidth: float = 4.0  # random_fourier: standard deviation along the layer axis, in cycles over the network
    bandwidth: float = 1.0  # random_fourier: c in s = c * n^p, in cycles over a layer's axis of n places
    bandwidth_exponent: float = 0.5  # random_fourier: p in s = c * n^p; 0 gives every layer the same bandwidth
    seed: int = 0  # random_fourier: seed of the frequencies (they are stored as well)
    base: float = 0.76  # positional: base of the geometric frequencies
    levels: int = 40  # positional: frequencies for each coordinate

    def __post_init__(self) -> None:
        _require_choice('encoding.kind', self.kind, ENCODINGS)
        _require_range('encoding.num_frequencies', self.num_frequencies, 1, 65536)
        _require_range('encoding.layer_bandwidth', self.layer_bandwidth, 0, 1e6)
        _require_range('encoding.bandwidth', self.bandwidth, 0, 1e6)
        _require_range('encoding.bandwidth_exponent', self.bandwidth_exponent, 0, 2)
        _require_range('encoding.seed', self.seed, 0, 2 ** 63 - 1)
        _require_range('encoding.base', self.base, 1e-3, 1e3)
        _require_range('encoding.levels', self.levels, 1, 1024)

    def feature_width(self, num_coordinates: int) -> int:
        """Features for each kernel: a sine and a cosine of every frequency."""
        if self.kind == 'random_fourier':
            return 2 * self.num_frequencies
        return 2 * self.levels * num_coordinates

    def frequencies_shape(self, num_coordinates: int) -> Tuple[int, int]:
        """Shape of the stored random frequencies; 'positional' has none."""
        return (self.num_frequencies if self.kind == 'random_fourier' else 0, num_coordinates)


@dataclass(frozen=True)
class PredictorConfig:
    """The multilayer perceptron: features -> ``linear_layers - 1`` hidden layers of ``width`` -> one kernel."""
    width: int = 64
    linear_layers: int = 5  # matrix products from features to kernel, the last one included
    activation: str = 'gelu'
    extra: int = 0  # units that the last hidden layer has more, with which a budget is met closely

    def __post_init__(self) -> None:
        _require_range('predictor.width', self.width, 1, 1 << 20)
        _require_range('predictor.extra', self.extra, 0, 1 << 20)
        _require_range('predictor.linear_layers', self.linear_layers, 2, 64)
        _require_choice('predictor.activation', self.activation, ACTIVATIONS)

    @property
    def hidden_widths(self) -> Tuple[int, ...]:
        """Units of each hidden layer."""
        return (self.width,) * (self.linear_layers - 2) + (self.width + self.extra,)


@dataclass(frozen=True)
class TargetRule:
    """Which weights are generated, and what a token is. Every other tensor is kept as it is."""
    min_weights: int = 1024  # smaller weights are kept
    include: Tuple[str, ...] = ()  # glob patterns of weight names that are generated although the rule keeps them
    exclude: Tuple[str, ...] = ()  # glob patterns of weight names that are kept although the rule generates them
    pointwise_size: int = POINTWISE_SIZE  # input channels in a token of 1x1 convolutions and linear layers

    def __post_init__(self) -> None:
        _require_range('targets.pointwise_size', self.pointwise_size, 1, LARGEST_TOKEN)
        _require_range('targets.min_weights', self.min_weights, 0, 1 << 62)


@dataclass(frozen=True)
class QuantizationConfig:
    """How finely a packed artifact rounds its numbers to integers, which are then entropy-coded.

    The step of a row of predictor weights is its root mean square times 2^(2.05 - bits), so that a row of normally
    distributed weights takes ``bits`` each (the entropy of a normal distribution in steps of that size).
    """
    layer_bits: Tuple[float, ...]  # of the predictor's layers: trunk, then heads from the smallest kernel size on
    bias_bits: int = 8  # the predictor's biases, rounded to 2^bits steps over the range of each layer's
    kept_bits: int = 8  # kept tensors, rounded to 2^bits steps over the range of each row

    def __post_init__(self) -> None:
        for bits in self.layer_bits:
            _require_range('quantization.layer_bits', bits, 1, 12)
        _require_range('quantization.bias_bits', self.bias_bits, 4, 12)
        _require_range('quantization.kept_bits', self.kept_bits, 4, 12)


@dataclass(frozen=True)
class SbsConfig:
    """All that is needed, beside tensors, to build the predictor of an artifact and to generate weights with it."""
    base: str  # timm name of the architecture whose weights are generated
    generated: Tuple[str, ...]  # names of the generated weights, in the order of the layer coordinate
    base_args: Dict[str, Any] = field(default_factory=dict)  # arguments of the base architecture
    ordering: OrderingConfig = field(default_factory=OrderingConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    pointwise_size: int = POINTWISE_SIZE  # input channels in a token of 1x1 convolutions and linear layers
    storage_dtype: str = 'float32'  # dtype of the stored predictor, unless it is quantized
    quantization: Optional[QuantizationConfig] = None  # None: predictor and kept tensors are stored as floats
    weights_sha256: str = ''  # checksum of model.safetensors
    sizes: Dict[str, Any] = field(default_factory=dict)  # the size ledger of model.safetensors
    results: Dict[str, Any] = field(default_factory=dict)  # measured figures, and how they were measured
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not self.base:
            raise ConfigError('base is empty, but must name a timm architecture.')
        if not self.generated:
            raise ConfigError('generated is empty, but must name at least one weight.')
        if len(set(self.generated)) != len(self.generated):
            raise ConfigError('generated names a weight twice.')
        _require_range('pointwise_size', self.pointwise_size, 1, LARGEST_TOKEN)
        _require_choice('storage_dtype', self.storage_dtype, STORAGE_DTYPES)
        if self.quantization and len(self.quantization.layer_bits) < self.predictor.linear_layers:
            raise ConfigError(
                f'quantization.layer_bits has {len(self.quantization.layer_bits)} entries, but the predictor has '
                f'{self.predictor.linear_layers} layers or more.')

    @property
    def num_coordinates(self) -> int:
        """The layer coordinate and those inside the layer."""
        return 1 + self.ordering.num_axes

    @property
    def feature_width(self) -> int:
        return self.encoding.feature_width(self.num_coordinates)

    @property
    def frequencies_shape(self) -> Tuple[int, int]:
        return self.encoding.frequencies_shape(self.num_coordinates)


def byte_count(text: str) -> int:
    """Number of bytes in words such as 64k, 1.5M or 49152; k is 1,000 and Ki is 1,024.

    Raises:
        ArgumentTypeError: The text is no such number.
    """
    number = text.lower().removesuffix('b').rstrip('kmi')
    unit = text.lower().removesuffix('b')[len(number):]
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise ArgumentTypeError(f"'{text}' is no number of bytes, such as 64k, 1.5M or 49152") from None


def to_dict(config: Any) -> Dict[str, Any]:
    """JSON-ready form of a configuration dataclass: tuples as lists, nested dataclasses as objects."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def from_dict(cls: Type[ConfigT], data: Any, where: str) -> ConfigT:
    """Build configuration dataclass ``cls`` from its JSON form.

    Args:
        cls: One of the dataclasses of this module.
        data: A parsed JSON object. Fields that have a default may be missing.
        where: What the object is, for error messages, such as "'sbs' in out/config.json".

    Raises:
        ConfigError: ``data`` is no object, has an unknown field, lacks one, or holds a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where} must be a JSON object, but is {type(data).__name__}.')
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(str(k) for k in data if k not in names)
    if unknown:
        raise ConfigError(f"{where} has an unknown field '{unknown[0]}'. Known fields: {', '.join(names)}.")
    missing = [
        f.name for f in dataclasses.fields(cls)
        if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{where} lacks the field '{missing[0]}'.")
    values = {name: _typed(hints[name], data[name], f'{where}, field {name}') for name in names if name in data}
    try:
        return cls(**values)
    except ConfigError as e:
        raise ConfigError(f'{where}: {e}') from None


def _typed(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is Union:  # Optional[X] is Union[X, None]
        return None if value is None else _typed(get_args(hint)[0], value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)
    origin = get_origin(hint) or hint
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{where} must be a list of {get_args(hint)[0].__name__}.')
        return tuple(_typed(get_args(hint)[0], v, f'{where}, entry {i}') for i, v in enumerate(value))
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f'{where} is too large a number.') from None
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise ConfigError(f'{where} must be of type {origin.__name__}, but is {type(value).__name__}.')
    return value
