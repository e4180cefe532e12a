import argparse

import pytest
import yaml

from timm_sbs.common.errors import ConfigError
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import args_yaml, parse_args, recipe_names
from timm_sbs.training.options.run_settings import settings_of
from timm_sbs.training.options.settings import (
    DistillationSettings,
    QuantizationSettings,
    ReconstructionSettings,
    SecondOrderSettings,
)

NEEDED = ['--model', 'resnet20_cifar10', '--output', 'out']


def parsed(*argv):
    return parse_args(build_parser(), [*NEEDED, *argv])


def test_flags_default_to_the_settings():
    settings = settings_of(parsed())
    assert settings.reconstruction == ReconstructionSettings() and settings.distillation == DistillationSettings()
    assert not settings.distils and settings_of(parsed('--data-dir', 'x')).distils
    assert not settings_of(parsed('--data-dir', 'x', '--distillation-steps', '0')).distils
    assert settings_of(parsed('--data-free', 'noise')).distils


def test_phases_have_learning_rates_of_their_own():
    settings = settings_of(parsed(
        '--data-free', 'noise', '--lr', '3', '--reconstruction-lr', '1', '--second-order-lr', '2', '--bits', '4'))
    assert [phase.lr for phase in (settings.reconstruction, settings.second_order, settings.distillation,
                                   settings.quantization)] == [1., 2., 3., 3.]
    again = settings_of(parsed('--data-free', 'noise', '--lr', '3', '--quantization-lr', '4', '--bits', '4'))
    assert again.quantization.lr == 4.


def test_a_packed_predictor_is_rounded_from_the_first_image_unless_told():
    images = ['--data-dir', 'x', '--distillation-steps', '700', '--lr', '3e-4']
    packed = ['--bits', '5']
    floats = settings_of(parsed(*images))
    assert (floats.distillation.steps, floats.quantizes) == (700, False)
    for rounded in (settings_of(parsed(*images, *packed)), settings_of(parsed(*images, '--bytes', '64k'))):
        assert not rounded.distils and rounded.trains_on_images
        assert (rounded.quantization.steps, rounded.quantization.lr) == (700, 3e-4)
        assert rounded.steps_before('quantization') == rounded.reconstruction.steps + rounded.second_order.steps
    both = settings_of(parsed(*images, *packed, '--quantization-steps', '50', '--quantization-lr', '1e-4'))
    assert (both.distillation.steps, both.quantization.steps, both.quantization.lr) == (700, 50, 1e-4)
    second_order = settings_of(parsed('--data-dir', 'x', '--distillation-steps', '0', *packed))
    assert second_order.takes_statistics and second_order.quantizes and not second_order.trains_on_images
    without_images = settings_of(parsed(*packed))
    assert without_images.quantization.steps == QuantizationSettings.steps and not without_images.trains_on_images


def test_the_second_order_phase_is_taken_where_there_are_images():
    assert not settings_of(parsed()).takes_statistics
    assert not settings_of(parsed('--data-dir', 'x', '--second-order-steps', '0')).takes_statistics
    settings = settings_of(parsed('--data-free', 'noise', '--second-order-lr', '1e-3', '--statistics-images', '50'))
    assert settings.takes_statistics and settings.second_order == SecondOrderSettings(lr=1e-3, images=50)
    assert settings.with_second_order_steps(7).second_order.steps == 7
    assert settings.steps_before('distillation') == settings.reconstruction.steps + SecondOrderSettings.steps
    # a distilled predictor would be thrown back to the original's weights
    assert not settings_of(parsed('--data-dir', 'x', '--start-from', 'y')).takes_statistics
    assert settings_of(parsed('--data-dir', 'x', '--start-from', 'y')).reconstruction.steps == 0
    assert settings_of(parsed('--start-from', 'y')).reconstruction == settings_of(parsed()).reconstruction
    asked = settings_of(parsed('--data-dir', 'x', '--start-from', 'y', '--reconstruction-steps', '9'))
    assert asked.reconstruction.steps == 9
    for flags, says in (
            (['--statistics-images', '5'], 'at least 10 images, not 5'),
            (['--second-order-damping', '0'], 'damping of second-order is 0')):
        with pytest.raises(ConfigError, match=says):
            settings_of(parsed(*flags))


def test_loss_weights_may_move():
    weights = '--feature-weight', '1', '0', '--label-weight', '0.5'
    settings = settings_of(parsed('--data-dir', 'x', *weights)).distillation
    assert settings.feature_weight == (1., 0.) and settings.label_weight == (0.5, 0.5)
    with pytest.raises(ConfigError, match='--feature-weight takes one value, or'):
        settings_of(parsed('--feature-weight', '1', '2', '3'))


def test_synthetic_images_leave_the_statistics_alone_unless_told():
    assert 'statistics' in settings_of(parsed()).distillation.train_kept
    assert 'statistics' not in settings_of(parsed('--data-free', 'inversion')).distillation.train_kept
    settings = settings_of(parsed('--data-free', 'inversion', '--train-kept', 'statistics', 'norm'))
    assert settings.distillation.train_kept == ('statistics', 'norm')


@pytest.mark.parametrize('text, count', [
    ('64k', 64_000), ('1.5M', 1_500_000), ('49152', 49152), ('2KiB', 2048), ('1G', 10 ** 9)])
def test_byte_counts(text, count):
    assert parsed('--bytes', text).bytes == count


@pytest.mark.parametrize('argv', [['--bytes', 'many'], ['--bytes', '3x'], ['--pct', 'a'], ['--recipe', 'imagenet22k'],
                                  ['--train-kept', 'all'], ['--reconstruction', '3']])
def test_bad_flags_are_named(argv, capsys):
    with pytest.raises(SystemExit):
        parsed(*argv)
    assert argv[0] in capsys.readouterr().err


@pytest.mark.parametrize('argv, says', [
    (['--data-free', 'noise', '--label-weight', '1'], 'Noise has no labels'),
    (['--data-free', 'noise', '--unlabelled-dir', '.'], 'draws all training images itself'),
    (['--push-to-hub'], '--push-to-hub needs --hub-model-id'),
    (['--checkpointing-steps', '0'], '--checkpointing-steps must be 1 or more'),
    (['--order-over', 'axes', '--coordinates', 'path'], "coordinates='path' needs"),
    (['--start-from', 'x', '--bytes', '64k'], '--start-from keeps the width of its predictor'),
    (['--synthetic-images', '0', '--data-free', 'inversion'], 'larger than 0'),
])
def test_what_does_not_go_together(argv, says):
    with pytest.raises(ConfigError, match=says):
        settings_of(parsed(*argv))


@pytest.mark.parametrize('name', recipe_names())
def test_recipes_are_valid_and_are_overruled_by_flags(name):
    args = parsed('--recipe', name)
    settings_of(args)
    assert args.reconstruction_steps != 17
    assert parsed('--recipe', name, '--reconstruction-steps', '17').reconstruction_steps == 17
    assert parsed('--reconstruction-steps', '17', '--recipe', name).reconstruction_steps == 17


def test_recipe_names():
    assert recipe_names() == ['cifar10', 'cifar10_rounding', 'imagenet', 'quick']


def test_args_yaml_is_read_back(tmp_path):
    args = parsed('--recipe', 'cifar10', '--pct', '7', '--keep', 'layer1.*', '--model-kwargs', 'drop_rate=0.1',
                  '--data-dir', 'x', '--no-aug', '--feature-weight', '1', '0', '--resume', 'latest')
    path = tmp_path / 'args.yaml'
    path.write_text(args_yaml(args))
    again = parse_args(build_parser(), ['--config', str(path)])
    assert settings_of(again) == settings_of(args) and again.model_kwargs == {'drop_rate': 0.1}
    assert args_yaml(again) == args_yaml(args)
    assert parse_args(build_parser(), ['--config', str(path), '--pct', '8']).pct == 8
    assert yaml.safe_load(path.read_text())['pct'] == 7.0


@pytest.mark.parametrize('text, says', [
    ('pct: [', 'is no YAML'), ('- pct', 'must be a YAML mapping'), ('percent: 3', "sets 'percent', which is no flag")])
def test_bad_configuration_files(tmp_path, text, says):
    path = tmp_path / 'c.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        parsed('--config', str(path))


def test_missing_configuration_file_and_wrong_value(tmp_path, capsys):
    with pytest.raises(ConfigError, match='cannot be read'):
        parsed('--config', 'nowhere.yaml')
    (tmp_path / 'c.yaml').write_text('pct: much')
    with pytest.raises(SystemExit):
        parsed('--config', str(tmp_path / 'c.yaml'))
    assert "--pct: invalid float value: 'much'" in capsys.readouterr().err


def test_help_names_every_default_that_has_one():
    text = build_parser().format_help()
    assert '==SUPPRESS==' not in text and isinstance(text, str) and argparse.SUPPRESS not in text
    for flag in ('--dry-run', '--resume', '--data-free', '--report-to', '--hub-model-id', '--grad-accum-steps'):
        assert flag in text


@pytest.mark.parametrize('given, size', [((), 10 ** 9), (('--image-cache', '500M'), 500 * 10 ** 6),
                                         (('--image-cache', '0'), 0)])
def test_memory_for_images(given, size):
    assert settings_of(parsed('--data-dir', 'x', *given)).data.image_cache == size
