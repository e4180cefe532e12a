"""From flags, recipes and configuration files to checked settings."""
import argparse
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Container, Dict, List, Mapping, Optional, Sequence, Tuple

import yaml

from timm_sbs.config import OrderingConfig, QuantizationConfig, TargetRule
from timm_sbs.errors import ConfigError, short_reason
from timm_sbs.training.data import DataSettings
from timm_sbs.training.settings import ENCODING_DEFAULTS, KEPT_PARTS, LINEAR_LAYERS, PACKED_LINEAR_LAYERS, \
    DistillationSettings, QuantizationSettings, ReconstructionSettings, SecondOrderSettings
from timm_sbs.training.synthetic import InversionSettings

__all__ = ['PredictorOptions', 'Settings', 'recipe_names', 'parse_args', 'args_yaml', 'settings_of']

_RECIPES = files('timm_sbs') / 'recipes'


@dataclass(frozen=True)
class PredictorOptions:
    """What the flags say about the predictor. None is left to the granularity and to whether it is packed."""
    rule: TargetRule
    kind: str  # of EncodingConfig, as all up to the seed
    seed: int
    activation: str
    storage_dtype: str
    kept_bits: int
    granularity: Optional[str] = None
    coordinates: Optional[str] = None
    num_frequencies: Optional[int] = None
    layer_bandwidth: Optional[float] = None
    bandwidth: Optional[float] = None
    bandwidth_exponent: Optional[float] = None
    linear_layers: Optional[int] = None
    max_places: Optional[int] = None

    def arguments(self, granularity: str, bits: Optional[float]) -> Dict[str, Any]:
        """Arguments of :func:`timm_sbs.training.fit.design`, apart from the size.

        Raises:
            ConfigError: A value is out of range, or two do not go together.
        """
        coordinates = self.coordinates or ('path' if granularity == 'layer' else 'grid')
        ordering = OrderingConfig(granularity, coordinates)
        given = {
            name: getattr(self, name)
            for name in ('num_frequencies', 'layer_bandwidth', 'bandwidth', 'bandwidth_exponent')
            if getattr(self, name) is not None}
        return dict(
            rule=self.rule, ordering=ordering, activation=self.activation, storage_dtype=self.storage_dtype,
            encoding=replace(ENCODING_DEFAULTS[coordinates], kind=self.kind, seed=self.seed, **given),
            linear_layers=self.linear_layers or (PACKED_LINEAR_LAYERS if bits else LINEAR_LAYERS),
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
    data_free: Optional[str]  # of DATA_FREE
    inversion: InversionSettings
    rounds_on_images: bool  # whether the steps of quantization are those of distillation

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
        return q.bits is not None or q.max_bytes is not None or bool(q.layer_bits)

    def with_bits(self, bits: float) -> 'Settings':
        """The same settings with the bits that a search has chosen."""
        return replace(self, quantization=replace(self.quantization, bits=bits))

    def with_second_order_steps(self, steps: int) -> 'Settings':
        """The same settings with so many steps of the second-order phase, if it has any."""
        steps = steps if self.second_order.steps else 0
        return replace(self, second_order=replace(self.second_order, steps=steps))

    def rounded_from_the_first_image(self) -> 'Settings':
        """The same settings with all steps of distillation taken in the last phase."""
        return replace(
            self, distillation=replace(self.distillation, steps=0),
            quantization=replace(self.quantization, steps=self.distillation.steps))

    def steps_before(self, phase: str) -> int:
        """Steps of the run before a phase ('second-order', 'distillation', 'quantization') or before its 'end'."""
        phases = ('second-order', 'distillation', 'quantization', 'end')
        steps = (
            self.reconstruction.steps, self.takes_statistics * self.second_order.steps,
            self.distils * self.distillation.steps, self.quantizes * self.quantization.steps)
        return sum(steps[:1 + phases.index(phase)])

    @property
    def trains_on_images(self) -> bool:
        """Whether a phase takes steps on images."""
        return self.distils or bool(self.rounds_on_images and self.quantizes and self.quantization.steps)


def recipe_names() -> List[str]:
    """Names of the recipes that ship."""
    return sorted(Path(item.name).stem for item in _RECIPES.iterdir() if item.name.endswith('.yaml'))


def _read_yaml(text: str, where: str) -> Dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{where} is no YAML: {short_reason(e)}") from e
    if not isinstance(values, dict):
        raise ConfigError(f'{where} must be a YAML mapping from flags to values.')
    return values


def _as_argv(values: Mapping[str, Any], known: Container[str], where: str) -> List[str]:
    """The command line that says the same, so that a file's values are checked as flags are."""
    argv: List[str] = []
    for name, value in values.items():
        if str(name).replace('-', '_') not in known:
            raise ConfigError(f"{where} sets '{name}', which is no flag of the trainer.")
        flag = '--' + str(name).replace('_', '-')
        if value is True:
            argv.append(flag)
        elif isinstance(value, dict):
            argv += [flag, *(f'{k}={v}' for k, v in value.items())]
        elif isinstance(value, (list, tuple)):
            argv += [flag, *map(str, value)]
        elif value is not None and value is not False:
            argv.append(f'{flag}={value}')
    return argv


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Arguments from, each overruling the one before: defaults, the recipe, the configuration file, ``argv``.

    Raises:
        ConfigError: The configuration file cannot be read, or sets what is no flag.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument('--recipe')
    first.add_argument('-c', '--config')
    found, _ = first.parse_known_args(argv)
    known = set(vars(parser.parse_args(['--model', '', '--output', '']))) - {'recipe', 'config'}
    before: List[str] = []
    if found.recipe in recipe_names():
        text = (_RECIPES / f'{found.recipe}.yaml').read_text(encoding='utf-8')
        before += _as_argv(_read_yaml(text, f'recipe {found.recipe}'), known, f'recipe {found.recipe}')
    if found.config:
        try:
            text = Path(found.config).read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"--config '{found.config}' cannot be read: {e}.") from e
        before += _as_argv(_read_yaml(text, found.config), known, f'--config {found.config}')
    return parser.parse_args([*before, *argv])


def args_yaml(args: argparse.Namespace) -> str:
    """All arguments as YAML that ``--config`` reads back."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(args).items() if name not in ('config', 'recipe', 'dry_run')}
    return yaml.safe_dump(values, default_flow_style=False)


def _pair(values: Sequence[Any], flag: str) -> Tuple[Any, Any]:
    if len(values) > 2:
        raise ConfigError(f'{flag} takes one value, or those of the first and the last step.')
    return values[0], values[-1]


def _phase(args: argparse.Namespace, prefix: str) -> Dict[str, Any]:
    """Optimizer and schedule of a phase. Those of quantization are distillation's where they are not given."""
    def value(name: str) -> Any:
        given = getattr(args, prefix + name)
        return getattr(args, name) if given is None and prefix == 'quantization_' else given

    betas = value('opt_betas')
    return dict(
        lr=value('lr'), opt=value('opt'), betas=None if betas is None else tuple(betas),
        weight_decay=value('weight_decay'), sched=value('sched'), warmup=value('warmup'))


def settings_of(args: argparse.Namespace, packed: Optional[QuantizationConfig] = None) -> Settings:
    """Checked settings from arguments.

    Args:
        args: What :func:`parse_args` returns.
        packed: How the artifact to start from is packed, if it is, and goes on to be.

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
    if args.start_from and args.bytes and not args.bits and not packed:
        raise ConfigError(
            '--start-from keeps the width of its predictor, so --bytes alone leaves nothing to search. Say --bits; '
            '--bytes then lowers them as far as it must.')
    rule = TargetRule(args.min_weights, tuple(args.include), tuple(args.exclude), args.pointwise_size)
    predictor = PredictorOptions(
        rule, args.encoding, args.seed, args.activation, args.storage_dtype, args.kept_bits, args.granularity,
        args.coordinates, args.num_frequencies, args.layer_bandwidth, args.bandwidth, args.bandwidth_exponent,
        args.linear_layers, args.max_places)
    predictor.arguments(args.granularity or 'layer', args.bits)  # checks
    distillation = DistillationSettings(
        steps=args.distillation_steps, output_weight=_pair(args.output_weight, '--output-weight'),
        feature_weight=_pair(args.feature_weight, '--feature-weight'),
        label_weight=_pair(args.label_weight, '--label-weight'), feature_modules=tuple(args.feature_modules),
        temperature=args.temperature, train_kept=tuple(train_kept), clip_grad=args.clip_grad,
        grad_accum_steps=args.grad_accum_steps,
        train_size=_pair(args.train_size, '--train-size') if args.train_size else None,
        eval_interval=args.eval_interval, **_phase(args, ''))
    quantization = QuantizationSettings(
        steps=QuantizationSettings.steps if args.quantization_steps is None else args.quantization_steps,
        bits=args.bits, layer_bits=packed.layer_bits if packed else (),
        kept_bits=packed.kept_bits if packed else args.kept_bits, max_bytes=args.bytes,
        **_phase(args, 'quantization_'))
    settings = Settings(
        predictor=predictor,
        reconstruction=ReconstructionSettings(
            steps=args.reconstruction_steps, batch_size=args.reconstruction_batch_size,
            **_phase(args, 'reconstruction_')),
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
    if settings.quantizes and on_images and args.quantization_steps is None:
        return settings.rounded_from_the_first_image()
    return settings


def _data(args: argparse.Namespace) -> DataSettings:
    return DataSettings(
        data_dir=args.data_dir, unlabelled_dirs=tuple(args.unlabelled_dir), class_map=args.class_map,
        dataset=args.dataset, train_split=args.train_split, val_split=args.val_split, batch_size=args.batch_size,
        workers=args.workers, no_aug=args.no_aug, crop_padding=args.crop_padding, hflip=args.hflip, vflip=args.vflip,
        scale=tuple(args.scale), ratio=tuple(args.ratio), color_jitter=args.color_jitter, aa=args.aa,
        reprob=args.reprob, mixup=args.mixup, cutmix=args.cutmix, dataset_download=args.dataset_download)


def _second_order(args: argparse.Namespace) -> SecondOrderSettings:
    steps = args.second_order_steps
    if steps is None:
        steps = 0 if args.start_from else SecondOrderSettings.steps
    return SecondOrderSettings(
        steps=steps, batch_size=args.second_order_batch_size, images=args.statistics_images,
        damping=args.second_order_damping, **_phase(args, 'second_order_'))
