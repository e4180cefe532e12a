import os

import pytest
import torch

from timm_sbs.common.distributed import uses_accelerator
from timm_sbs.common.errors import ConfigError
from timm_sbs.data.settings import ImageSettings


@pytest.mark.parametrize('wrong, says', [
    (dict(batch_size=0), '--batch-size is 0, but must be larger than 0'), (dict(workers=-1), '--workers is -1'),
    (dict(holdout_images=-1), '--holdout-images is -1'), (dict(mixup=float('nan')), '--mixup is nan'),
    (dict(synthetic_steps=0), 'synthetic_steps is 0'),
    (dict(scale=(0., 1.)), 'scale is'), (dict(train_size=(32, 64, 96)), '--train-size'),
    (dict(data_free=True, images=('a',)), '--images'),
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


@pytest.mark.parametrize('cores, processes, accelerated, readers', [
    (1, 1, False, 0), (4, 1, False, 1), (16, 4, False, 1), (128, 1, False, 8),
    (1, 1, True, 1), (16, 1, True, 8), (16, 4, True, 3), (8, 8, True, 1)])
def test_readers_leave_cores_to_a_network_on_the_cpu(monkeypatch, cores, processes, accelerated, readers):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: accelerated)
    assert ImageSettings().readers == readers and uses_accelerator() == accelerated
    assert ImageSettings(workers=5).readers == 5
    monkeypatch.setenv('ACCELERATE_USE_CPU', 'true')
    assert not uses_accelerator()
