import dataclasses
import re

import pytest

from timm_sbs.common.errors import ConfigError
from timm_sbs.data.settings import ImageSettings


@pytest.mark.parametrize('wrong, says', [
    (dict(batch_size=0), '--batch-size is 0, but must be 1 or more'), (dict(workers=-1), '--workers is -1'),
    (dict(holdout_images=-1), '--holdout-images is -1'), (dict(mixup=float('nan')), '--mixup is nan'),
    (dict(image_cache=-1), 'image_cache is -1'), (dict(synthetic_steps=0), 'synthetic_steps is 0'),
    (dict(cutmix=1., batch_size=5), 'even --batch-size'), (dict(hflip=1.5), 'hflip is 1.5'),
    (dict(scale=(0., 1.)), 'scale is'), (dict(train_size=(32, 64, 96)), '--train-size'),
    (dict(data_free='magic'), "--data-free is 'magic'"), (dict(data_free='noise', images=('a',)), '--images'),
    (dict(class_map='classes.pkl'), 'must be a .txt file'),
    (dict(class_map='classes.txt', dataset='torch/cifar10'), 'has its own classes')])
def test_values_that_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        ImageSettings(**wrong)


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', '/home/someone')
    settings = ImageSettings(images='~/photos', data_dir='~/data', class_map='~/names.txt')
    assert settings.images == ('/home/someone/photos',) and settings.where == '/home/someone/data /home/someone/photos'
    assert (settings.data_dir, settings.class_map) == ('/home/someone/data', '/home/someone/names.txt')
    assert ImageSettings(images=tmp_path).images == (str(tmp_path),)
    assert settings.given and ImageSettings(dataset='hfds/x').given and not ImageSettings().given


def test_images_are_validated_on_if_a_folder_has_some(tmp_path):
    folder = ImageSettings(data_dir=str(tmp_path))
    assert folder.validation == ImageSettings(images=('x',)).validation == ''
    (tmp_path / 'train').mkdir()
    assert folder.validation == '' and ImageSettings(data_dir=str(tmp_path), val_split='test').validation == 'test'
    (tmp_path / 'val').mkdir()
    assert folder.validation == ImageSettings(dataset='torch/cifar10').validation == 'validation'
    assert ImageSettings(data_dir=str(tmp_path), val_split='').validation == ''
    assert ImageSettings(images=str(tmp_path), val_split='test').validation == ''


def test_every_field_has_a_help_text():
    """The command line's help is made from them."""
    described = re.findall(r'^        (\w+): \S', ImageSettings.__doc__, flags=re.MULTILINE)
    assert described == [field.name for field in dataclasses.fields(ImageSettings)]
