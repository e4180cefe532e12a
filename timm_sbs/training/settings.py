"""The settings of a run: one tree of frozen dataclasses, which Python, the command line and YAML files all build.

A field has one name over the whole tree: it is the keyword of :func:`timm_sbs.fit`, the key in a YAML
file and, in kebab-case, the flag. ``python_only`` fields have no flag. The ``Attributes`` sections are the
flags' help. Defaults were chosen by measurement on ResNet-20.
"""
from dataclasses import dataclass, field
from os.path import expanduser
from typing import Any, Literal

from timm_sbs.codec.bit_allocation import FEWEST, MOST
from timm_sbs.common.config import OrderingConfig, PredictorConfig, QuantizationConfig, SelectionRule, byte_count
from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import python_only, require, require_positive
from timm_sbs.data.settings import ImageSettings
from timm_sbs.training.phase_settings import Distillation, Reconstruction, SecondOrder

__all__ = ['PCT', 'Original', 'Target', 'RunSettings', 'Settings']

PCT = 20.  # where no size is given


@dataclass(frozen=True)
class Original:
    """The original model

    Attributes:
        model: timm model whose weights are generated or rounded.
        task: What its outputs are, and so how predictions are compared: logits of classes, of which an image has one;
            logits of labels, each for itself; or an embedding (default: by the number of its classes).
        initial_checkpoint: File with its trained weights (default: timm's pretrained weights).
        license: Licence of these weights for the model card, such as cc-by-nc-4.0 (default: as timm says of its own).
        base_model: Hub repository of these weights for the model card (default: as timm says of its own).
        model_kwargs: Further arguments of the architecture, as pairs of a name and a value.
    """
    model: str = ''
    task: Literal['auto', 'classification', 'multi-label', 'embedding'] = 'auto'
    initial_checkpoint: str = ''
    license: str | None = None
    base_model: str | None = None
    model_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What to make: --pct makes a predictor, --bytes rounds the weights

    Attributes:
        pct: Make a predictor with this percentage of the original's parameters (default: 20, without --bytes).
        bytes: Round all weights so that both files of the artifact take this many bytes, such as 64k or 1.5M.
        base: Make an update instead: an artifact of --bytes that holds what differs from this one, which is a folder, a
            name, or user/name@revision on the Hub.
        bits: Quantize the predictor to this many bits per weight, the mean over its layers.
        kept_bits: Bits of tensors that a quantized artifact stores without generating or rounding them to fewer bits.
        keep: Patterns of weight names that are neither generated nor rounded, such as 'blocks.*.mlp.*'.
        generate: Patterns of weight names that are generated although the usual rule stores them.
        order_over: What one kernel path covers; the more kernels, the more bytes the ordering takes.
        coordinates: 'path' (position along the path) or 'grid' (row and column); default: 'path' where order_over is
            'layer'.
        encoding: 'random_fourier' (UOS-RFF) or 'positional' (NeRN).
        num_frequencies: Random frequencies (default: 64 on a path, 128 on a grid).
        layer_bandwidth: Cycles along the layers (default: 4 on a path, 12 on a grid).
        bandwidth: c of s = c * n^p, cycles along an axis of n kernels (default: 1 on a path, 1.5 on a grid).
        bandwidth_exponent: p of s = c * n^p; 0 is plain RFF.
        activation: Between the layers of the predictor: 'gelu', 'relu' or 'sine'.
        linear_layers: Matrix products from features to kernel (default: 5, or 4 if quantized: rounding errors grow from
            layer to layer).
        min_weights: Weights with fewer values are not generated.
        max_positions: Largest number of positions in a layer; where it has more kernels, several are generated at each.
            0: no limit (default: 1,024 for networks of 200,000 kernels, else no limit).
        storage_dtype: Number format of a predictor that is not quantized.
    """
    pct: float | None = None
    bytes: str | int | None = None
    base: str | None = None
    bits: float | None = None
    kept_bits: int = python_only(8)
    keep: tuple[str, ...] = ()
    generate: tuple[str, ...] = python_only(())
    order_over: Literal['layer', 'filter', 'axes', 'nothing'] = 'layer'
    coordinates: str | None = python_only(None)
    encoding: str = python_only('random_fourier')
    num_frequencies: int | None = python_only(None)
    layer_bandwidth: float | None = python_only(None)
    bandwidth: float | None = python_only(None)
    bandwidth_exponent: float | None = python_only(None)
    activation: str = python_only('gelu')
    linear_layers: int | None = python_only(None)
    min_weights: int = python_only(SelectionRule.min_weights)
    max_positions: int | None = python_only(None)
    storage_dtype: str = python_only('float16')

    def __post_init__(self) -> None:
        if isinstance(self.bytes, str):
            object.__setattr__(self, 'bytes', byte_count(self.bytes))
        if self.pct is not None and self.bytes is not None:
            raise ConfigError('--pct makes a predictor, and --bytes rounds all weights. Give one of them.')
        if self.bits is not None and self.bytes is not None:
            raise ConfigError('--bits quantizes a predictor, and --bytes makes none. Give one of them.')
        if self.base and self.bytes is None:
            raise ConfigError('--base makes an update, whose size has to be given: add --bytes.')
        if self.generate and self.bytes is not None:
            raise ConfigError('generate names weights for a predictor, and --bytes makes none. Give one of them.')
        require(self, 'pct', lambda pct: 0 < pct <= 100, 'larger than 0 and at most 100')
        require(self, 'bytes', lambda count: count >= 1, '1 or more')
        require(self, 'bits', lambda bits: FEWEST <= bits <= MOST, f'from {FEWEST:g} to {MOST:g}')
        QuantizationConfig((), kept_bits=self.kept_bits)  # checks, as do the next
        self.ordering  # noqa: B018
        PredictorConfig(1, self.linear_layers or 2, self.activation)

    @property
    def max_bytes(self) -> int | None:
        """``bytes`` as a number."""
        return None if self.bytes is None else int(self.bytes)

    @property
    def rounds(self) -> bool:
        """Whether weights are rounded instead of being generated."""
        return self.bytes is not None

    @property
    def rule(self) -> SelectionRule:
        method = 'rounding' if self.rounds else 'generation'
        return SelectionRule(method, self.min_weights, self.generate, self.keep)

    @property
    def ordering(self) -> OrderingConfig:
        """Without a limit of positions, which depends on the network."""
        return OrderingConfig(self.order_over, self.coordinates or ('path' if self.order_over == 'layer' else 'grid'))


@dataclass(frozen=True)
class RunSettings:
    """The run

    Attributes:
        output: Folder of the best artifact and of everything else that the run writes.
        seed: Random seed.
        mixed_precision: 'auto' is what accelerate is configured for, else bf16 or fp16 if the device has units for it.
        checkpointing_steps: Optimization steps between checkpoints (default: no checkpoints).
        resume: Continue from a checkpoint: 'latest', or its folder.
        report_to: Trackers of accelerate, such as tensorboard or wandb; summary.csv is always written.
        push_to_hub: Upload the artifact to this repository, USER/NAME, at the end.
        hub_private: Whether the repository is created as a private one.
    """
    output: str | None = None
    seed: int = 0
    mixed_precision: Literal['auto', 'no', 'bf16', 'fp16'] = 'auto'
    checkpointing_steps: int | None = None
    resume: str | None = None
    report_to: tuple[str, ...] = ()
    push_to_hub: str | None = None
    hub_private: bool = python_only(False)

    def __post_init__(self) -> None:
        require_positive(self, 'checkpointing_steps')
        for name in ('output', 'resume'):
            if path := getattr(self, name):
                object.__setattr__(self, name, expanduser(path))


@dataclass(frozen=True)
class Settings:
    """All settings of a run.

    Example:
        >>> Settings(target=Target(pct=15)).has_images
        False
    """
    original: Original = Original()
    target: Target = Target()
    reconstruction: Reconstruction = Reconstruction()
    second_order: SecondOrder = SecondOrder()
    distillation: Distillation = Distillation()
    images: ImageSettings = ImageSettings()
    run: RunSettings = RunSettings()

    @property
    def has_images(self) -> bool:
        """Whether there are training images, read or drawn: statistics and distillation need them."""
        return bool(self.images.given or self.images.data_free)

    @property
    def takes_statistics(self) -> bool:
        """Whether activation statistics are collected for second order."""
        return bool(self.second_order.steps and self.has_images)

    @property
    def distils(self) -> bool:
        return bool(self.distillation.steps and self.has_images)

    @property
    def follows_statistics(self) -> bool:
        """Whether BatchNorm statistics follow the training images; by default not drawn or mixed ones."""
        given, images = self.distillation.train_statistics, self.images
        return not (images.data_free or images.mixup) if given is None else given
