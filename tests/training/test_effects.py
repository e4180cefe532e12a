"""Arguments never vanish: what has no effect in a run is refused, if the call itself says it."""
from pathlib import Path

import pytest

from timm_sbs.common.errors import ConfigError
from timm_sbs.training.fit import describe_fit, fit
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import args_of, args_yaml, parse_args
from timm_sbs.training.options.run_settings import settings_of

NEEDED = {'model': 'resnet20_cifar10', 'output': 'out'}
NOISE = {'data_free': 'noise'}
ROUNDING = {'method': 'rounding', 'bytes': '60k'}


def settings(**flags):
    return settings_of(args_of({**NEEDED, **flags}))


@pytest.mark.parametrize('name, flags', [
    ('pct', dict(method='rounding', bits=3, pct=90)), ('order_over', dict(order_over='axes', **ROUNDING)),
    ('linear_layers', dict(linear_layers=3, **ROUNDING)), ('encoding', dict(encoding='positional', **ROUNDING)),
    ('reconstruction_steps', dict(reconstruction_steps=9, **ROUNDING)),
    ('linear_layers', dict(linear_layers=3, bytes='60k')),
    ('storage_dtype', dict(storage_dtype='float32', bits=4)),
    ('second_order_lr', dict(second_order_lr=1., **ROUNDING, **NOISE)), ('kept_bits', dict(kept_bits=5)),
    ('quantization_steps', dict(quantization_steps=7)), ('quantization_steps', dict(quantization_steps=7, **ROUNDING)),
    ('distillation_steps', dict(distillation_steps=9)), ('lr', dict(lr=1.)), ('mixup', dict(mixup=1.)),
    ('statistics_images', dict(statistics_images=50)), ('holdout_images', dict(holdout_images=50)),
    ('hflip', dict(hflip=0.1, **NOISE)),
    ('hflip', dict(hflip=0.1, no_aug=True, data_dir='x')),
    ('scale', dict(scale=[0.5, 1.], crop_padding=3, data_dir='x')),
    ('synthetic_images', dict(synthetic_images=9)), ('synthetic_steps', dict(synthetic_steps=9, **NOISE)),
    ('feature_modules', dict(feature_modules=['layer1'], **NOISE)), ('rounding_lr', dict(rounding_lr=1., **NOISE)),
    ('bandwidth', dict(bandwidth=1., encoding='positional')), ('hub_private', dict(hub_private=True)),
    ('checkpoints_total_limit', dict(checkpoints_total_limit=2)), ('pct', dict(pct=9, start_from='x')),
    ('license', dict(license='mit', start_from='x')),
    ('model_kwargs', dict(model_kwargs={'act_layer': 'silu'}, start_from='x')),
    ('dataset_download', dict(dataset_download=True, data_dir='x'))])
def test_what_has_no_effect_is_refused(name, flags):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} has no effect here: .*"):
        settings(**flags)
    settings(**{other: value for other, value in flags.items() if other != name})  # it was that flag


@pytest.mark.parametrize('flags', [
    dict(linear_layers=3, reconstruction_steps=9, bytes='60k', method='generation'),
    dict(linear_layers=3, generate=['layer3.*'], bytes='60k'), dict(lr=1., bits=4), dict(kept_bits=5, bits=4),
    dict(reconstruction_steps=0, **ROUNDING), dict(distillation_steps=0), dict(mixup=0, workers=0), dict(hflip=0.5),
    dict(storage_dtype='float16', bits=4), dict(rounding_lr=1., bits=4, **NOISE),
    dict(synthetic_images=9, data_free='inversion'), dict(statistics_images=50, second_order_steps=0, **NOISE),
    dict(temperature=9., distillation_steps=0, **NOISE),
    dict(recipe='cifar10', method='rounding', bits=3), dict(recipe='quick')])
def test_what_has_one_or_switches_off_what_there_is_not_is_taken(flags):
    settings(**flags)


def test_two_sizes_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr('timm_sbs.training.run.train.load_original', lambda *_: pytest.fail('work began'))
    for call in (fit, describe_fit):
        with pytest.raises(ConfigError, match='two sizes, --pct and --bytes'):
            call('resnet20_cifar10', pct=90, bytes='60k')
    with pytest.raises(ConfigError, match='two sizes'):
        parse_args(build_parser(), ['--model', 'a', '--output', 'b', '--pct', '20', '--bytes', '60k'])


def test_a_size_of_the_call_overrules_one_of_a_recipe_or_a_file(tmp_path):
    assert args_of(NEEDED).pct == 20
    args = args_of({**NEEDED, 'recipe': 'cifar10_rounding', 'pct': 7, 'method': 'generation'})
    assert (args.pct, args.bytes) == (7, None)
    args = args_of({**NEEDED, 'recipe': 'imagenet', 'bytes': '60k'})
    assert (args.pct, args.bytes) == (None, 60_000)
    path = tmp_path / 'args.yaml'
    path.write_text(args_yaml(args))
    again = args_of({'config': str(path), 'recipe': 'cifar10'})  # a file overrules a recipe
    assert (again.pct, again.bytes) == (None, 60_000)
    path.write_text('pct: 3\nbytes: 60k')
    with pytest.raises(ConfigError, match='args.yaml says two sizes'):
        args_of({**NEEDED, 'config': str(path)})


def test_arguments_of_the_model_arrive_as_they_were_given(tmp_path):
    given = {'img_size': (64, 64), 'name': '12', 'rate': 1e-3, 'flag': False, 'nothing': None, 'text': '(1, 2)'}
    args = args_of({**NEEDED, 'model_kwargs': given})
    assert args.model_kwargs == given and args.model_kwargs['flag'] is False
    (tmp_path / 'args.yaml').write_text(args_yaml(args))
    again = args_of({'config': str(tmp_path / 'args.yaml')})
    assert again.model_kwargs == given and isinstance(again.model_kwargs['img_size'], tuple)
    assert args_of({**NEEDED, 'config': str(tmp_path / 'args.yaml'), 'model_kwargs': {'a': 1}}).model_kwargs == {'a': 1}


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    args = args_of({
        'model': 'a', 'output': '~/x', 'data_dir': '~', 'unlabelled_dir': ['~/b'], 'start_from': Path('~/c')})
    home = str(tmp_path)
    assert (args.output, args.data_dir, args.unlabelled_dir) == (f'{home}/x', home, [f'{home}/b'])
    assert args.start_from == f'{home}/c'
