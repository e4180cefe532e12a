"""Settings by name: keywords and YAML files."""
from pathlib import Path

import pytest
import yaml

from timm_sbs.common.errors import ConfigError
from timm_sbs.common.fields import name_of
from timm_sbs.training.flat_settings import flat, read_yaml, recipe_names, settings_fields, settings_of
from timm_sbs.training.settings import Settings


def test_every_name_is_there_once():
    names = [name_of(leaf) for _, leaf in settings_fields()]
    assert len(names) == len(set(names))
    assert {'model', 'pct', 'reconstruction_lr', 'lr', 'images', 'seed', 'clip_grad'} <= set(names)


def test_values_become_what_their_fields_are():
    settings = settings_of(dict(
        pct=15, data_dir=Path('folder'), keep='layer1.*', feature_weight=1, data_free=True, report_to=['wandb'],
        train_statistics=False, output=Path('out'), model_kwargs={'img_size': (64, 64)}, reconstruction_steps=7))
    assert settings.target.pct == 15. and isinstance(settings.target.pct, float)
    assert settings.images.data_dir == 'folder' and settings.target.keep == ('layer1.*',)
    assert settings.distillation.feature_weight == 1. and settings.distillation.train_statistics is False
    assert settings.run.report_to == ('wandb',) and settings.run.output == 'out'
    assert settings.original.model_kwargs == {'img_size': (64, 64)} and settings.reconstruction.steps == 7
    assert settings.images.data_free


@pytest.mark.parametrize('values, says', [
    (dict(surprise=1), "sets 'surprise', which is not a setting"), (dict(pct='3'), "--pct is '3'"),
    (dict(imagess='x'), r"not a setting. Did you mean 'images'\?"),
    (dict(pct=True), '--pct is True, but must be a number'), (dict(seed=1.5), '--seed is 1.5, but must be an integer'),
    (dict(images=3), '--images, entry 0 is 3, but must be text'), (dict(model=None), '--model is None'),
    (dict(data_free='noise'), "--data-free is 'noise', but must be true or false"),
    (dict(order_over='axis'), 'must be one of: layer, filter, axes, nothing'),
    (dict(scale=[0.5]), 'scale has 1 values, but must have 2'), (dict(no_aug=1), '--no-aug is 1'),
    (dict(model_kwargs='x'), "--model-kwargs is 'x', but must be a mapping"), (dict(clip_grad=0), 'clip_grad is 0')])
def test_what_cannot_be_is_one_sentence(values, says):
    with pytest.raises(ConfigError, match=says):
        settings_of(values)


def test_a_size_takes_the_place_of_another():
    rounding = settings_of({'bytes': '60k'})
    assert settings_of({'pct': 7}, default=rounding).target.bytes is None
    quantized = settings_of({'pct': 7, 'bits': 5.})
    target = settings_of({'bytes': '60k'}, default=quantized).target
    assert (target.pct, target.bits, target.max_bytes) == (None, None, 60_000)
    assert settings_of({'bits': None}, default=quantized).target.bits is None
    with pytest.raises(ConfigError, match='--pct makes a predictor, and --bytes rounds'):
        settings_of({'pct': 7, 'bytes': '60k'})


def test_settings_are_read_back_from_yaml(tmp_path):
    settings = settings_of(dict(
        model='resnet18', pct=7, keep=['layer1.*'], feature_weight=0.5, data_dir='x', no_aug=True, lr=5e-5,
        model_kwargs={'drop_rate': 0.1}, train_statistics=False, second_order_steps=0))
    path = tmp_path / 'settings.yaml'
    path.write_text(yaml.safe_dump(flat(settings)))
    assert settings_of(read_yaml(str(path))) == settings
    assert flat(Settings()) == {}
    path.write_text('lr: 1e-4\nfeature-weight: 5e-1\nscale: [2e-1, 1]\nbytes: 64k\n')  # as people write them
    read = settings_of(read_yaml(str(path)))
    assert (read.distillation.lr, read.distillation.feature_weight, read.target.bytes) == (1e-4, 0.5, 64_000)
    assert read.images.scale == (0.2, 1)


@pytest.mark.parametrize('text, says', [
    ('pct: [', 'could not be read'), ('- pct', 'must be a YAML mapping'), ('percent: 3', "sets 'percent'"),
    ('pct: much', "--pct is 'much', but must be a number"), (None, 'It must be a YAML file, or one of: cifar10')])
def test_files_that_cannot_be_used(tmp_path, text, says):
    path = tmp_path / 'c.yaml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        settings_of(read_yaml(str(path)), str(path))


@pytest.mark.parametrize('name', recipe_names())
def test_files_that_ship_are_settings(name):
    settings = settings_of(read_yaml(name), name)
    assert settings.target.pct or settings.target.bytes or name == 'quick'
    assert settings_of({'bytes': '60k'}, default=settings).target.rounds
