"""Settings of an artifact: frozen dataclasses, checked on construction, and their JSON form. Imports no torch."""
import math
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import from_dict, require_choice, require_range, require_text, to_dict

__all__ = [
    'FORMAT_VERSION', 'OTHERS', 'POINTWISE_SIZE', 'LARGEST_TOKEN', 'MAX_WIDTH', 'OrderingConfig', 'EncodingConfig',
    'PredictorConfig', 'GeneratorConfig', 'SelectionRule', 'QuantizationConfig', 'StorageConfig', 'UpdateConfig',
    'ArtifactConfig', 'byte_count', 'to_dict', 'from_dict']

# Version of config.json and model.safetensors. A reader refuses all others.
FORMAT_VERSION = 6
# Input channels that form one token where kernels have a single value: 1x1 convolutions and linear layers.
POINTWISE_SIZE = 8
OTHERS = '*'  # for the names of rounded weights: all that are not generated
LARGEST_TOKEN = 64  # values; larger kernels are cut into their rows
MAX_FLAGS = 1 << 13  # hexadecimal digits: of 32,768 tensors
MAX_WIDTH = 1 << 14  # units of a predictor's layer, of which a block of kernels needs an output each
FOLDS = (1, 4, 16, 64, 256)  # kernels at a position; few numbers, for each has an output layer of its own

STORAGE_DTYPES = ('float32', 'float16', 'bfloat16')

_UNITS = {'': 1, 'k': 1000, 'm': 1000 ** 2, 'g': 1000 ** 3, 'ki': 1024, 'mi': 1024 ** 2, 'gi': 1024 ** 3}

@dataclass(frozen=True)
class OrderingConfig:
    """In which order the kernels of a layer are laid out before a predictor generates them.

    ``order_over='layer', coordinates='path'`` is UOS: one path over all kernels of a layer, one coordinate for each.
    NeRN's three choices are ``nothing``, ``filter`` ('in-filter') and ``layer`` with ``coordinates='grid'``
    ('cross-filter': the path is folded back into rows of a (filter, channel) grid).
    """
    order_over: str = 'layer'  # what one path runs over: a layer's kernels, each filter's, its two axes, nothing
    coordinates: str = 'path'  # 'path': (layer, position on the path); 'grid': (layer, row, column)
    max_positions: int = 0  # of a layer; where it has more kernels, several are generated at each position. 0: no limit

    def __post_init__(self) -> None:
        require_choice('ordering.order_over', self.order_over, ('layer', 'filter', 'axes', 'nothing'))
        require_range('ordering.max_positions', self.max_positions, 0, 1 << 31)
        require_choice('ordering.coordinates', self.coordinates, ('path', 'grid'))
        if self.coordinates == 'path' and self.order_over != 'layer':
            raise ConfigError(
                f"ordering.coordinates='path' needs ordering.order_over='layer', but it is '{self.order_over}'. "
                f"Use coordinates='grid'.")


@dataclass(frozen=True)
class EncodingConfig:
    """How coordinates become the features that a predictor reads.

    ``random_fourier`` with ``bandwidth_exponent > 0`` is UOS-RFF, with 0 it is plain RFF (one bandwidth for all
    layers). ``positional`` is NeRN's encoding with its published base and levels.
    """
    kind: str = 'random_fourier'
    num_frequencies: int = 64  # random_fourier: frequencies; the feature width is twice this
    layer_bandwidth: float = 4.0  # random_fourier: standard deviation along the layer axis, in cycles over the network
    bandwidth: float = 1.0  # random_fourier: c in s = c * n^p, in cycles over a layer's axis of n positions
    bandwidth_exponent: float = 0.5  # random_fourier: p in s = c * n^p; 0 gives every layer the same bandwidth
    seed: int = 0  # random_fourier: seed of the frequencies (they are stored as well)
    base: float = 0.76  # positional: base of the geometric frequencies
    levels: int = 40  # positional: frequencies for each coordinate

    def __post_init__(self) -> None:
        require_choice('encoding.kind', self.kind, ('random_fourier', 'positional'))
        require_range('encoding.num_frequencies', self.num_frequencies, 1, 4096)
        require_range('encoding.layer_bandwidth', self.layer_bandwidth, 0, 1e6)
        require_range('encoding.bandwidth', self.bandwidth, 0, 1e6)
        require_range('encoding.bandwidth_exponent', self.bandwidth_exponent, 0, 2)
        require_range('encoding.seed', self.seed, 0, 2 ** 63 - 1)
        require_range('encoding.base', self.base, 1e-3, 1e3)
        require_range('encoding.levels', self.levels, 1, 1024)


@dataclass(frozen=True)
class PredictorConfig:
    """The multilayer perceptron: features -> ``linear_layers - 1`` hidden layers of ``width`` -> one kernel."""
    width: int = 64
    linear_layers: int = 5  # matrix products from features to kernel, the last one included
    activation: str = 'gelu'
    extra: int = 0  # extra units in the last hidden layer, which meet a budget closely

    def __post_init__(self) -> None:
        require_range('predictor.width', self.width, 1, MAX_WIDTH)
        require_range('predictor.extra', self.extra, 0, MAX_WIDTH)
        require_range('predictor.linear_layers', self.linear_layers, 2, 64)
        require_choice('predictor.activation', self.activation, ('gelu', 'relu', 'sine'))

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return (self.width,) * (self.linear_layers - 2) + (self.width + self.extra,)


@dataclass(frozen=True)
class SelectionRule:
    """Which weights are generated and which are rounded. Every other tensor is stored.

    Patterns are globs over names of weights. Beside a predictor, weights are rounded only where it is quantized.
    """
    method: str = 'generation'  # 'generation': of convolutions and linear layers; 'rounding': of all weights
    min_weights: int = 1024  # smaller weights are not generated
    generate: tuple[str, ...] = ()  # weights that are generated, whatever the rule says
    keep: tuple[str, ...] = ()  # weights that are neither

    def __post_init__(self) -> None:
        require_choice('method', self.method, ('generation', 'rounding'))
        if self.generate and self.method == 'rounding':
            raise ConfigError('generate names weights for a predictor, but all weights are rounded. Leave one out.')
        require_range('targets.min_weights', self.min_weights, 0, 1 << 62)


@dataclass(frozen=True)
class QuantizationConfig:
    """How finely a quantized artifact rounds its numbers to integers, which are then entropy-coded.

    The step size of a row of predictor weights is its root mean square times 2^(2.05 - bits), so that a row of normally
    distributed weights takes ``bits`` each (the entropy of a normal distribution, in units of that size). Training for
    few bits moves weights towards cheaper integers, and so takes fewer. Rounded weights bring step sizes of their own.
    """
    layer_bits: tuple[float, ...] = ()  # of the predictor's layers: trunk, then heads from the smallest kernel size on
    kept_bits: int = 8  # of stored tensors: up to the typical numbers of vectors, and over each row of others

    def __post_init__(self) -> None:
        require_range('the number of quantization.layer_bits', len(self.layer_bits), 0, 256)
        for bits in self.layer_bits:
            require_range('quantization.layer_bits', bits, 1, 12)
        require_range('quantization.kept_bits', self.kept_bits, 4, 12)


@dataclass(frozen=True)
class StorageConfig:
    """How the numbers of an artifact are stored."""
    dtype: str = 'float32'  # of the predictor's parameters, unless it is quantized
    quantization: QuantizationConfig | None = None  # None: predictor and stored tensors are floats

    def __post_init__(self) -> None:
        require_choice('storage_dtype', self.dtype, STORAGE_DTYPES)


@dataclass(frozen=True)
class GeneratorConfig:
    """All settings of a :class:`~timm_sbs.predictor.generator.Generator`, from a kernel's position to its values."""
    ordering: OrderingConfig = field(default_factory=OrderingConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)

    @property
    def num_coordinates(self) -> int:
        """The layer coordinate and those inside the layer: one on a path, two in a grid."""
        return 2 if self.ordering.coordinates == 'path' else 3

    @property
    def feature_width(self) -> int:
        """Features for each kernel: a sine and a cosine of every frequency."""
        return 2 * (self.frequencies_shape[0] or self.encoding.levels * self.num_coordinates)

    @property
    def frequencies_shape(self) -> tuple[int, int]:
        """Shape of the stored random frequencies; 'positional' has none."""
        return self.encoding.num_frequencies if self.encoding.kind == 'random_fourier' else 0, self.num_coordinates


@dataclass(frozen=True)
class UpdateConfig:
    """Of an update: the artifact that it differs from, and what of it is stored."""
    base: str  # as users load it: a name of the package's, user/name@revision on the Hub, or what its folder is called
    digest: str  # of the base's files
    kept: str = '0'  # which tensors beside rounded ones are stored, one bit each, hexadecimal; others are the base's

    def __post_init__(self) -> None:
        require_text('update.base', self.base)
        if not re.fullmatch('[0-9a-f]{64}', self.digest):
            raise ConfigError('update.digest is not the digest of an artifact.')
        if not re.fullmatch(f'[0-9a-f]{{1,{MAX_FLAGS}}}', self.kept):
            raise ConfigError(f'update.kept is not a hexadecimal number of up to {MAX_FLAGS:,} digits.')

    @staticmethod
    def flags(names: Sequence[str], chosen: Container[str]) -> str:
        """Which of some names are chosen, as ``kept`` has it."""
        return f'{sum(1 << index for index, name in enumerate(names) if name in chosen):x}'

    def stored(self, names: Sequence[str]) -> list[str]:
        """Those of some names that ``kept`` marks.

        Raises:
            ConfigError: It marks more than there are.
        """
        bits = int(self.kept, 16)
        if bits >> len(names):
            raise ConfigError(f'update.kept marks tensors beyond the {len(names)} that there are.')
        return [name for index, name in enumerate(names) if bits >> index & 1]


@dataclass(frozen=True)
class ArtifactConfig:
    """The 'sbs' block of config.json: what an artifact says of itself, beside timm's description of the original."""
    base: str  # timm name of the architecture whose weights are generated
    generated: tuple[str, ...] = ()  # names of the generated weights, in the order of the layer coordinate
    rounded: tuple[str, ...] = ()  # names of rounded weights, or OTHERS
    ordering: OrderingConfig = field(default_factory=OrderingConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    storage_dtype: str = 'float32'  # see StorageConfig, as the next
    quantization: QuantizationConfig | None = None
    update: UpdateConfig | None = None  # what is stored is added to another artifact; None: nothing is
    digest: str = ''  # of the structure and of model.safetensors, see timm_sbs.artifact.files.digest
    # Information, of which a reader takes what it knows (timm_sbs.common.results):
    ledger: dict[str, Any] = field(default_factory=dict)  # where the bytes of model.safetensors go, once it is written
    results: dict[str, Any] = field(default_factory=dict)  # measured figures, and how they were measured
    format_version: int = field(default=FORMAT_VERSION, metadata={'always': True})

    def __post_init__(self) -> None:
        if not self.base:
            raise ConfigError('base is empty, but must name a timm architecture.')
        require_text('base', self.base)
        if self.update and self.generated:
            raise ConfigError('An update generates no weights, but generated names some.')
        if not (self.generated or self.rounded or self.update):
            raise ConfigError('generated and rounded are empty, but one must name at least one weight.')
        for kind in ('generated', 'rounded'):
            if len(set(getattr(self, kind))) != len(getattr(self, kind)):
                raise ConfigError(f'{kind} names a weight twice.')
        if both := set(self.generated) & set(self.rounded):
            raise ConfigError(f"'{min(both)}' is generated and rounded, but a weight can be only one of these.")
        require_choice('storage_dtype', self.storage_dtype, STORAGE_DTYPES)
        if self.rounded and not self.quantization:
            raise ConfigError('rounded names weights, but without a quantization none is rounded.')
        if self.quantization and self.generated and len(self.quantization.layer_bits) < self.predictor.linear_layers:
            raise ConfigError(
                f'quantization.layer_bits has {len(self.quantization.layer_bits)} entries, but the predictor has '
                f'{self.predictor.linear_layers} layers or more.')

    @property
    def generator(self) -> GeneratorConfig:
        return GeneratorConfig(self.ordering, self.encoding, self.predictor)

    @property
    def storage(self) -> StorageConfig:
        return StorageConfig(self.storage_dtype, self.quantization)


def byte_count(text: str) -> int:
    """Number of bytes in words such as 64k, 1.5M or 49152; k is 1,000 and Ki is 1,024.

    Raises:
        ConfigError: The text is not such a number, or not even one byte.

    Example:
        >>> byte_count('64k'), byte_count('1.5Mi')
        (64000, 1572864)
    """
    number = text.lower().removesuffix('b').rstrip('kmgi')
    unit = text.lower().removesuffix('b')[len(number):]
    try:
        count = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        count = math.nan
    if not 1 <= count < math.inf:
        raise ConfigError(f"'{text}' is not a number of bytes, such as 49152, 64k, 1.5M or 2G.")
    return int(count)
