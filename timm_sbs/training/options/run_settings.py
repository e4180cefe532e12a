"""From the trainer's arguments to checked settings."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from timm_sbs.codec.bit_allocation import FEWEST, MOST
from timm_sbs.common.config import OrderingConfig, PredictorConfig, QuantizationConfig, SelectionRule
from timm_sbs.common.errors import ConfigError
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.synthetic import InversionSettings
from timm_sbs.training.options.effects import refuse_without_effect
from timm_sbs.training.options.settings import (
    ENCODING_DEFAULTS,
    FEWEST_ROUNDED_BITS,
    KEPT_PARTS,
    LINEAR_LAYERS,
    PREDICTOR_BITS,
    QUANTIZED_LINEAR_LAYERS,
    DistillationSettings,
    QuantizationSettings,
    ReconstructionSettings,
    SecondOrderSettings,
)

__all__ = ['PredictorOptions', 'Settings', 'settings_of']

T = TypeVar('T')


@dataclass(frozen=True)
class PredictorOptions:
    """What the flags say about the predictor. None is left to the ordering and to whether it is quantized."""
    rule: SelectionRule
    kind: str  # of EncodingConfig, as all up to the seed
    seed: int
    activation: str
    storage_dtype: str
    kept_bits: int
    order_over: str | None = None
    coordinates: str | None = None
    num_frequencies: int | None = None
    layer_bandwidth: float | None = None
    bandwidth: float | None = None
    bandwidth_exponent: float | None = None
    linear_layers: int | None = None
    max_places: int | None = None

    def arguments(self, bits: float | None) -> dict[str, Any]:
        """Arguments of :func:`timm_sbs.training.design.sizing.design`, apart from the size, for bits of a weight.

        Raises:
            ConfigError: A value is out of range, or two do not go together.
        """
        order_over = self.order_over or 'layer'
        coordinates = self.coordinates or ('path' if order_over == 'layer' else 'grid')
        ordering = OrderingConfig(order_over, coordinates)
        given = {
            name: getattr(self, name)
            for name in ('num_frequencies', 'layer_bandwidth', 'bandwidth', 'bandwidth_exponent')
            if getattr(self, name) is not None}
        linear_layers = self.linear_layers
        if linear_layers is None:
            linear_layers = QUANTIZED_LINEAR_LAYERS if bits is not None else LINEAR_LAYERS
        PredictorConfig(1, linear_layers, self.activation)  # checks
        return dict(
            rule=self.rule, ordering=ordering, activation=self.activation, storage_dtype=self.storage_dtype,
            encoding=replace(ENCODING_DEFAULTS[coordinates], kind=self.kind, seed=self.seed, **given),
            linear_layers=linear_layers,
            kept_bits=self.kept_bits, max_places=self.max_places)


@dataclass(frozen=True)
class Settings:
    """All settings of a run, checked."""
    predictor: PredictorOptions
    reconstruction: ReconstructionSettings
    second_order: SecondOrderSettings
    distillation: DistillationSettings
    quantization: QuantizationSettings
    data: DataSettings
    data_free: str | None  # of DATA_FREE
    inversion: InversionSettings
    rounds_on_images: bool  # whether the steps of quantization are those of distillation
    generates: bool = True  # whether there is a predictor; rounding by second order takes no steps

    @property
    def has_images(self) -> bool:
        """Whether there is something to look at: statistics and distillation need it."""
        return bool(self.data.given or self.data_free)

    @property
    def takes_statistics(self) -> bool:
        """Whether there is a second-order phase."""
        return bool(self.second_order.steps and self.has_images)

    @property
    def distils(self) -> bool:
        """Whether distillation is a phase of its own: there are images, and steps."""
        return bool(self.distillation.steps and self.has_images)

    @property
    def quantizes(self) -> bool:
        """Whether there is a last phase, of rounding. With a budget there is, even before bits are chosen."""
        q = self.quantization
        return q.bits is not None or q.max_bytes is not None or q.layer_bits is not None

    def with_bits(self, bits: float | None) -> 'Settings':
        """The same settings with the bits of a design."""
        return replace(self, quantization=replace(self.quantization, bits=bits))

    def with_second_order_steps(self, steps: int) -> 'Settings':
        """The same settings with so many steps of the second-order phase, if it has any."""
        steps = steps if self.second_order.steps else 0
        return replace(self, second_order=replace(self.second_order, steps=steps))

    def without_predictor(self) -> 'Settings':
        """The same settings where nothing is generated: only steps on images are left."""
        steps = self.quantization.steps if self.rounds_on_images else 0
        return replace(
            self, generates=False, reconstruction=replace(self.reconstruction, steps=0),
            quantization=replace(self.quantization, steps=steps))

    def rounded_from_the_first_image(self) -> 'Settings':
        """The same settings with all steps of distillation taken in the last phase."""
        return replace(
            self, distillation=replace(self.distillation, steps=0),
            quantization=replace(self.quantization, steps=self.distillation.steps))

    def steps_before(self, phase: str) -> int:
        """Steps of the run before a phase ('second-order', 'distillation', 'quantization') or before its 'end'."""
        phases = ('second-order', 'distillation', 'quantization', 'end')
        steps = (
            self.reconstruction.steps, self.generates * self.takes_statistics * self.second_order.steps,
            self.distils * self.distillation.steps, self.quantizes * self.quantization.steps)
        return sum(steps[:1 + phases.index(phase)])

    @property
    def trains_on_images(self) -> bool:
        """Whether a phase takes steps on images."""
        return bool(self.batches)

    @property
    def batches(self) -> int:
        """Batches of images that each process trains on, over all phases."""
        rounding = self.rounds_on_images and self.quantizes
        steps = self.distils * self.distillation.steps + rounding * self.quantization.steps
        return steps * self.distillation.grad_accum_steps


def _pair(values: Sequence[T], flag: str) -> tuple[T, T]:
    if len(values) > 2:
        raise ConfigError(f'{flag} takes one value, or those of the first and the last step.')
    return values[0], values[-1]


def settings_of(args: argparse.Namespace, quantized: QuantizationConfig | None = None) -> Settings:
    """Checked settings from arguments.

    Args:
        args: What :func:`parse_args` returns.
        quantized: How the artifact to start from is quantized, if it is, and goes on to be.

    Raises:
        ConfigError: A value is out of range, or two do not go together.
    """
    train_kept = args.train_kept
    if train_kept is None:
        train_kept = [part for part in KEPT_PARTS if not (args.data_free and part == 'statistics')]
    if args.data_free == 'noise' and any(args.label_weight):
        raise ConfigError('Noise has no labels: --label-weight does not go together with --data-free noise.')
    if args.data_free and args.unlabelled_dir:
        raise ConfigError('--data-free draws all training images itself, so it does not go together with '
                          '--unlabelled-dir.')
    if args.unlabelled_dir and any(args.label_weight):
        raise ConfigError('--label-weight needs a label for every training image, so it does not go together with '
                          '--unlabelled-dir.')
    if args.push_to_hub and not args.hub_model_id:
        raise ConfigError('--push-to-hub needs --hub-model-id USER/NAME.')
    for name in ('checkpointing_steps', 'checkpoints_total_limit'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be 1 or more.")
    _check_sizes(args)
    if args.start_from and args.bytes is not None and args.bits is None and not quantized:
        raise ConfigError(
            '--start-from keeps the width of its predictor, so --bytes alone leaves nothing to choose. Say --bits; '
            '--bytes then lowers them as far as it must.')
    method, bits = _method(args), args.bits
    if bits is None and args.bytes is not None and method == 'generation' and not args.start_from:
        bits = PREDICTOR_BITS
    rule = SelectionRule(method, args.min_weights, tuple(args.generate), tuple(args.keep), args.pointwise_size)
    predictor = PredictorOptions(
        rule, args.encoding, args.seed, args.activation, args.storage_dtype, args.kept_bits, args.order_over,
        args.coordinates, args.num_frequencies, args.layer_bandwidth, args.bandwidth, args.bandwidth_exponent,
        args.linear_layers, args.max_places)
    predictor.arguments(bits)  # checks
    distillation = DistillationSettings(
        steps=args.distillation_steps, output_weight=_pair(args.output_weight, '--output-weight'),
        feature_weight=_pair(args.feature_weight, '--feature-weight'),
        label_weight=_pair(args.label_weight, '--label-weight'), feature_modules=tuple(args.feature_modules),
        temperature=args.temperature, rounding_lr=args.rounding_lr, train_kept=tuple(train_kept),
        clip_grad=args.clip_grad, grad_accum_steps=args.grad_accum_steps,
        train_size=_pair(args.train_size, '--train-size') if args.train_size else None,
        eval_interval=args.eval_interval, lr=args.lr)
    quantization = QuantizationSettings(
        steps=QuantizationSettings.steps if args.quantization_steps is None else args.quantization_steps,
        bits=bits, layer_bits=quantized.layer_bits if quantized else None,
        kept_bits=quantized.kept_bits if quantized else args.kept_bits, max_bytes=args.bytes,
        lr=args.lr if args.quantization_lr is None else args.quantization_lr)
    settings = Settings(
        predictor=predictor,
        reconstruction=_reconstruction(args),
        second_order=_second_order(args),
        distillation=distillation,
        quantization=quantization,
        data=_data(args),
        data_free=args.data_free,
        inversion=InversionSettings(args.synthetic_images, args.synthetic_steps),
        rounds_on_images=False,
    )
    on_images = settings.has_images and bool(args.distillation_steps or not settings.takes_statistics)
    settings = replace(settings, rounds_on_images=on_images)
    if settings.has_images and args.start_from and args.reconstruction_steps is None:
        settings = replace(settings, reconstruction=replace(settings.reconstruction, steps=0))
    if settings.quantizes and on_images and args.quantization_steps is None:
        settings = settings.rounded_from_the_first_image()
    refuse_without_effect(args, settings)
    return settings


def _method(args: argparse.Namespace) -> str:
    """--bytes rounds, and all else makes a predictor; so do --bytes with what only a predictor has, or --method."""
    of_predictor = args.bytes is None or args.bits is not None or args.order_over or args.generate
    return args.method or ('generation' if of_predictor else 'rounding')


def _check_sizes(args: argparse.Namespace) -> None:
    """Raises ConfigError for sizes that no predictor can have, before any work."""
    if args.pct is not None and not 0 < args.pct <= 100:
        raise ConfigError(f'--pct is {args.pct:g}, but must be larger than 0 and at most 100.')
    if args.bytes is not None and args.bytes < 1:
        raise ConfigError(f'--bytes is {args.bytes}, but must be 1 or more.')
    fewest = FEWEST_ROUNDED_BITS if args.method == 'rounding' else FEWEST
    if args.bits is not None and not fewest <= args.bits <= MOST:
        hint = '' if args.method == 'rounding' else f' With --method rounding, from {FEWEST_ROUNDED_BITS:g}.'
        raise ConfigError(f'--bits is {args.bits:g}, but must be from {fewest:g} to {MOST:g}.{hint}')
    try:
        QuantizationConfig((), kept_bits=args.kept_bits)
    except ConfigError as e:
        raise ConfigError(f'--kept-bits: {e}') from None


def _data(args: argparse.Namespace) -> DataSettings:
    return DataSettings(
        data_dir=args.data_dir, unlabelled_dirs=tuple(args.unlabelled_dir), class_map=args.class_map,
        dataset=args.dataset, train_split=args.train_split, val_split=args.val_split, batch_size=args.batch_size,
        workers=args.workers, no_aug=args.no_aug, crop_padding=args.crop_padding, hflip=args.hflip,
        scale=tuple(args.scale), mixup=args.mixup, cutmix=args.cutmix, dataset_download=args.dataset_download,
        image_cache=args.image_cache, holdout_images=args.holdout_images)


def _reconstruction(args: argparse.Namespace) -> ReconstructionSettings:
    steps = args.reconstruction_steps
    return ReconstructionSettings(
        steps=ReconstructionSettings.steps if steps is None else steps, batch_size=args.reconstruction_batch_size,
        lr=args.reconstruction_lr)


def _second_order(args: argparse.Namespace) -> SecondOrderSettings:
    steps = args.second_order_steps
    if steps is None:
        steps = 0 if args.start_from else SecondOrderSettings.steps
    return SecondOrderSettings(
        steps=steps, batch_size=args.second_order_batch_size, images=args.statistics_images,
        damping=args.second_order_damping, lr=args.second_order_lr)
