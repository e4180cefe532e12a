"""What config.json says was measured: sizes and results, frozen and checked. Imports no torch.

Both read as mappings too: of their recorded fields, in the order in which these were given, in their JSON form. So
``dict(results)`` is what stands in config.json, and ``{**results, 'top1': 90.}`` is a further measurement. Fields that
this version does not know are kept as they are, so that a metric of a later version makes no file unreadable.
"""
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import MAX_DEPTH, from_dict, require_json, require_range, require_text, to_json

__all__ = ['PARTS', 'Ledger', 'Results']

PARTS = ('predictor', 'ordering', 'rounded', 'kept', 'frequencies', 'header')  # of model.safetensors
MOST = 1 << 62  # of what is counted
LARGEST = 1e300  # of errors and seconds
HISTORY = MAX_DEPTH - 4  # results inside of results that are written; what is older is left out

RecordT = TypeVar('RecordT', bound='_Record')


@dataclass(frozen=True, eq=False)
class _Record(Mapping[str, Any]):
    """A dataclass that reads as a mapping of those of its fields that are not None."""

    @classmethod
    def of(cls: type[RecordT], data: Mapping[str, Any], where: str = 'results') -> RecordT:
        """The record of a mapping, which keeps its order.

        Raises:
            ConfigError: A value is of the wrong type or out of range.
        """
        return data if isinstance(data, cls) else from_dict(cls, data, where)

    @property
    def unknown(self) -> dict[str, Any]:
        """Fields that this version does not know."""
        return self.__dict__.get('_unknown', {})

    def _names(self) -> tuple[str, ...]:
        return self.__dict__.get('_order') or tuple(
            f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names():
            raise KeyError(name)
        return to_json(self.unknown[name] if name in self.unknown else getattr(self, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def keep(self, data: Mapping[str, Any]) -> None:
        """Called by :func:`~timm_sbs.common.fields.from_dict` with what the record was made from: keeps its order, and
        what is unknown.

        Raises:
            ConfigError: Something unknown is not JSON.
        """
        known = {field.name for field in dataclasses.fields(self)}
        unknown = {name: value for name, value in data.items() if name not in known}
        require_json(f'an unknown field of {type(self).__name__.lower()}', unknown)
        object.__setattr__(self, '_unknown', unknown)
        object.__setattr__(self, '_order', tuple(
            name for name in data if name in unknown or getattr(self, name) is not None))

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as dataclasses with __eq__ have it


@dataclass(frozen=True, eq=False)
class Ledger(_Record):
    """Bytes of each part of model.safetensors, and what they are compared with.

    Attributes:
        predictor, ordering, rounded, kept, frequencies, header: Bytes of each part.
        file: Their sum.
        predictor_parameters: Parameters of the predictor.
        original_values: Floating-point values of the base model's state dict.
        original: Bytes of these in float32.
        percent: ``file`` in percent of ``original``.
        bits_per_weight: Bits of the file for each of ``original_values``.

    Raises:
        ConfigError: A number is out of range, or the parts do not add up.
    """
    predictor: int
    ordering: int
    rounded: int
    kept: int
    frequencies: int
    header: int
    file: int
    predictor_parameters: int
    original_values: int
    original: int
    percent: float
    bits_per_weight: float

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each part that there is, by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name)}

    def __post_init__(self) -> None:
        for name in (*PARTS, 'file', 'predictor_parameters'):
            require_range(f'ledger.{name}', getattr(self, name), 0, MOST)
        for name in ('original_values', 'original'):
            require_range(f'ledger.{name}', getattr(self, name), 1, MOST)
        for name in ('percent', 'bits_per_weight'):
            require_range(f'ledger.{name}', getattr(self, name), 0, LARGEST)
        parts = sum(getattr(self, name) for name in PARTS)
        if parts != self.file:
            raise ConfigError(f'ledger.file is {self.file}, but its parts add up to {parts}.')


_COUNTS = (
    'max_bytes', 'predictor_parameters', 'original_parameters', 'statistics_images', 'holdout_images', 'images',
    'validations', 'reconstruction_steps', 'second_order_steps', 'distillation_steps', 'quantization_steps')
_PERCENTS = (
    'top1', 'original_top1', 'agreement', 'holdout_agreement', 'last_top1', 'reconstruction_top1', 'second_order_top1')
_AMOUNTS = (
    'bits', 'rounding_error', 'reconstruction_error', 'second_order_error', 'distillation_error', 'quantization_error',
    'expected_divergence', 'holdout_divergence', 'statistics_seconds', 'reconstruction_seconds', 'second_order_seconds',
    'distillation_seconds', 'quantization_seconds')
_TEXTS = ('mixed_precision', 'data_free', 'original_hub_id', 'dataset', 'unlabelled', 'hardware', 'measured_on')


@dataclass(frozen=True, eq=False)
class Results(_Record):
    """Measured figures, and how they came about. None is what was not measured.

    Raises:
        ConfigError: A figure is out of range: a percentage from 0 to 100, anything else finite and not negative.
    """
    seed: int | None = None
    reconstruction_steps: int | None = None
    bits: float | None = None  # of a predictor weight, as asked for
    max_bytes: int | None = None  # of both files, as asked for
    mixed_precision: str | None = None
    predictor_parameters: int | None = None
    original_parameters: int | None = None
    data_free: str | None = None  # kind of synthetic images
    original_hub_id: str | None = None
    dataset: str | None = None
    unlabelled: str | None = None  # folders of images
    started_from: Optional['Results'] = None  # of the artifact that training went on from
    before_quantization: Optional['Results'] = None  # of the artifact that was rounded without data
    versions: dict[str, str] | None = None
    hardware: str | None = None
    reconstruction_error: float | None = None  # squared, relative, of the weights
    reconstruction_seconds: float | None = None
    statistics_images: int | None = None
    statistics_seconds: float | None = None
    expected_divergence: float | None = None
    rounding_error: float | None = None  # squared, relative, of the weights that were rounded before any training
    second_order_steps: int | None = None
    second_order_error: float | None = None
    second_order_seconds: float | None = None
    distillation_steps: int | None = None
    distillation_error: float | None = None
    distillation_seconds: float | None = None
    layer_bits: tuple[float, ...] | None = None
    quantization_steps: int | None = None
    quantization_error: float | None = None
    quantization_seconds: float | None = None
    holdout_images: int | None = None  # training images on which predictors of the run were compared
    holdout_divergence: float | None = None  # on these: mean of the predictions from the original's, in nats
    holdout_agreement: float | None = None  # %, as ``agreement``, on these
    top1: float | None = None  # %, on ``images``
    original_top1: float | None = None  # %, on the same images
    images: int | None = None
    agreement: float | None = None  # %, of predictions with the original's
    measured_on: str | None = None  # where it is not the data set's own validation images
    # Of predictors that validation images chose, as no run does any longer: what they are is to be told.
    validations: int | None = None
    last_top1: float | None = None  # %, after the last step, as the next two on validation images
    reconstruction_top1: float | None = None
    second_order_top1: float | None = None

    def __post_init__(self) -> None:
        self._require(('seed',), -MOST, 2 * MOST - 1)
        self._require(_COUNTS, 0, MOST)
        self._require(_PERCENTS, 0, 100)
        self._require(_AMOUNTS, 0, LARGEST)
        for bits in self.layer_bits or ():
            require_range('results.layer_bits', bits, 0, 64)
        for name in _TEXTS:
            if getattr(self, name) is not None:
                require_text(f'results.{name}', getattr(self, name))
        for package, version in (self.versions or {}).items():
            for text in (package, version):
                if not isinstance(text, str):
                    raise ConfigError(f'results.versions holds {text!r}, but must hold texts.')
                require_text('results.versions', text)

    def _require(self, names: tuple[str, ...], low: float, high: float) -> None:
        for name in names:
            if getattr(self, name) is not None:
                require_range(f'results.{name}', getattr(self, name), low, high)

    def shortened(self, levels: int = HISTORY) -> 'Results':
        """The same results with so many levels of earlier ones, so that a reader does not refuse them."""
        earlier = {
            name: found.shortened(levels - 1) if levels else None
            for name in ('started_from', 'before_quantization') if (found := getattr(self, name)) is not None}
        if not earlier:
            return self
        shortened = dataclasses.replace(self, **earlier)
        shortened.keep(self)
        return shortened
