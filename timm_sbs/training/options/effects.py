"""Which arguments have an effect in which run: one that is given in the call, and would have none, is refused."""
import argparse
from typing import TYPE_CHECKING

from timm_sbs.common.errors import ConfigError

if TYPE_CHECKING:
    from timm_sbs.training.options.run_settings import Settings

__all__ = ['refuse_without_effect']

_ENCODING = 'num_frequencies layer_bandwidth bandwidth bandwidth_exponent'
_PREDICTOR = ('pct linear_layers activation min_weights pointwise_size order_over coordinates max_places encoding '
              + _ENCODING)
_AUGMENTATION = 'crop_padding hflip scale'


def _effects(args: argparse.Namespace, settings: 'Settings') -> list[tuple[bool, str, str]]:
    """Flags, what they need to have an effect, and the reason where they have none."""
    data, quantization = settings.data, settings.quantization
    fresh = not args.start_from
    generates = not fresh or settings.predictor.rule.method == 'generation'
    images, noisy = settings.has_images, settings.data_free
    training = settings.trains_on_images or args.distillation_steps == 0
    statistics = settings.takes_statistics or args.second_order_steps == 0
    rounds = (settings.quantizes and bool(quantization.steps) and (generates or training)) \
        or args.quantization_steps == 0
    reads = data.given
    return [
        (fresh, f'{_PREDICTOR} method storage_dtype generate keep license model_kwargs',
         'the artifact of --start-from decides it'),
        (generates, _PREDICTOR, 'weights are rounded, and nothing is generated; --method generation makes a predictor'),
        (args.encoding == 'random_fourier', _ENCODING, f'--encoding {args.encoding} draws no frequencies'),
        (generates and bool(settings.reconstruction.steps or args.reconstruction_steps == 0),
         'reconstruction_steps reconstruction_batch_size reconstruction_lr', 'there is no reconstruction'),
        (not settings.quantizes, 'storage_dtype', 'a quantized artifact stores integers'),
        (settings.quantizes, 'kept_bits', 'an artifact of floats rounds nothing; --bits or --bytes quantize it'),
        (rounds, 'quantization_steps quantization_lr', 'no step is taken with rounded weights'),
        (images, 'batch_size workers distillation_steps second_order_steps statistics_images second_order_damping',
         'there are no images; --data-dir, --dataset, --unlabelled-dir and --data-free give them'),
        (statistics, 'statistics_images second_order_damping', 'there is no second-order phase'),
        (statistics and generates, 'second_order_batch_size second_order_lr',
         'no step is taken by second order'),
        (training, 'output_weight feature_weight label_weight feature_modules temperature train_kept clip_grad '
                   f'grad_accum_steps eval_interval no_aug mixup cutmix train_size {_AUGMENTATION}',
         'no step is taken on images'),
        (training or rounds, 'lr', 'no step is taken on images'),
        (training and settings.quantizes, 'rounding_lr', 'no rounded weights are trained on images'),
        (any(settings.distillation.feature_weight), 'feature_modules', '--feature-weight compares none'),
        (any(settings.distillation.output_weight), 'temperature', '--output-weight compares no predictions'),
        (reads, 'image_cache holdout_images train_split val_split class_map', 'no images are read'),
        (not noisy, f'holdout_images train_split {_AUGMENTATION}', '--data-free draws the training images'),
        (not data.no_aug, _AUGMENTATION, '--no-aug leaves it out'),
        (not data.crop_padding, 'scale', '--crop-padding shifts images instead of cropping them'),
        (noisy == 'inversion', 'synthetic_images synthetic_steps', '--data-free inversion draws none'),
        (bool(data.dataset), 'dataset_download', '--dataset names nothing'),
        (args.checkpointing_steps is not None, 'checkpoints_total_limit', '--checkpointing-steps writes none'),
        (args.push_to_hub, 'hub_model_id hub_private', '--push-to-hub is missing'),
    ]


def refuse_without_effect(args: argparse.Namespace, settings: 'Settings') -> None:
    """Raises ConfigError for an argument of the call that changes nothing in this run, although its user expects it to.

    Those of recipes and configuration files, which serve many runs, are ignored where they do not apply; so are values
    that are the default, or that switch off what there is not.
    """
    given = getattr(args, 'given', ())
    for has_effect, flags, why in _effects(args, settings):
        for name in flags.split():
            if not has_effect and name in given:
                raise ConfigError(f"--{name.replace('_', '-')} has no effect here: {why}.")
