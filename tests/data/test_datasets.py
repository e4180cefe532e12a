"""Splits and classes of a folder, and files that cannot be read."""
import numpy as np
import pytest
import timm
import torch
from PIL import Image

from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.data.augmentation import validation_transform
from timm_sbs.data.datasets import open_training_images
from timm_sbs.data.loaders import eval_loader
from timm_sbs.data.settings import ImageSettings

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()


def settings(folder, **others):
    return ImageSettings(**{'data_dir': str(folder), 'workers': 0, 'batch_size': 4, 'no_aug': True, **others})


@pytest.fixture()
def folder(tmp_path):
    """Twenty images."""
    (tmp_path / 'images').mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'images' / f'{number:02}.png')
    return tmp_path / 'images'


def test_folders_without_images(tmp_path):
    (tmp_path / 'train' / 'cat').mkdir(parents=True)
    for given in (settings(tmp_path), settings(tmp_path / 'nowhere'), settings(None, images=str(tmp_path))):
        with pytest.raises(SbsError, match="No images could be read from .*: (Found 0 images|there is no such)"):
            open_training_images(given, validation_transform(CFG))


def test_a_split_that_is_not_there(image_folder, tmp_path):
    """timm itself would take all images of all splits."""
    for others in ({}, {'dataset': 'torch/image_folder'}):
        with pytest.raises(SbsError, match="has no split 'test2', only train and validation"):
            eval_loader(settings(image_folder, val_split='test2', **others), CFG)
        assert len(eval_loader(settings(image_folder, val_split='val', **others), CFG).dataset) == 100
    assert len(eval_loader(settings(image_folder / 'train'), CFG).dataset) == 400
    with pytest.raises(SbsError, match="No images could be read from split 'validation' of 'torch/cifar11 /nowhere'"):
        eval_loader(settings('/nowhere', dataset='torch/cifar11'), CFG)
    with pytest.raises(SbsError, match='You can use --dataset-download to download it'):
        eval_loader(settings(tmp_path, dataset='torch/cifar10'), CFG)


def test_classes_that_cannot_be_right(image_folder):
    with pytest.raises(SbsError, match="split 'validation' of '.*' has 10 classes, but the model has 1000"):
        eval_loader(settings(image_folder), {**CFG, 'num_classes': 1000})
    with pytest.raises(SbsError, match="has 10 classes, but the model has 2"):
        eval_loader(settings(image_folder), {**CFG, 'num_classes': 1})
    transform = validation_transform({**CFG, 'num_classes': 1000})
    open_training_images(settings(image_folder), transform)  # labels are not used


def test_a_class_map_gives_classes_that_have_no_folder(image_folder, tmp_path):
    names = sorted(path.name for path in (image_folder / 'validation').iterdir())

    def labels_of(*lines):
        (tmp_path / 'classes.txt').write_text('\n'.join(lines) + '\n')
        given = settings(image_folder, class_map=str(tmp_path / 'classes.txt'), batch_size=100)
        (_, labels), = eval_loader(given, {**CFG, 'num_classes': 11})
        return labels.tolist()

    assert sorted(set(labels_of('absent', *names))) == list(range(1, 11))
    for lines, says in ((names, 'but names 10'), (['', *names], 'but names 11'), ([*names, names[0]], 'but names 10'),
                        ([*names[:8], 'x', 'y', 'z'], f"leaves out '{names[8]}'")):
        with pytest.raises(SbsError, match=f'must name the folders of all 11 classes once, in their order, .*{says}'):
            labels_of(*lines)


def damage(folder, monkeypatch):
    """Files that no program could read: five of them."""
    (folder / '00a.png').write_text('not an image')
    (folder / '07empty.png').touch()
    (folder / '08truncated.png').write_bytes((folder / '03.png').read_bytes()[:1000])
    (folder / '09nowhere.jpg').symlink_to('/nowhere/at/all.jpg')
    Image.new('1', (100, 100)).save(folder / '11bomb.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 4000)


@pytest.mark.parametrize('workers', [0, 2])
def test_what_cannot_be_read_is_replaced_by_the_next(folder, workers, monkeypatch, caplog):
    given = settings(folder, val_split='', workers=workers)
    transform = validation_transform(CFG)
    whole = {path.name: transform.batch(transform.single(Image.open(path))[None])[0] for path in folder.iterdir()}
    damage(folder, monkeypatch)
    loader = eval_loader(given, {**CFG, 'num_classes': None})
    names = sorted(path.name for path in folder.iterdir())
    following = [next(name for name in names[index:] if name in whole) for index in range(len(names))]
    for _ in range(2):
        images = torch.cat([images for images, _ in loader])
        assert torch.equal(images, torch.stack([whole[name] for name in following]))
    if not workers:
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1
        assert told[0].startswith(f"warning: image '{folder / '00a.png'}' cannot be read, and is replaced")


def test_a_folder_of_which_nothing_can_be_read(tmp_path):
    (tmp_path / 'a.png').write_text('not an image')
    with pytest.raises(SbsError, match="None of 1 images can be read, such as '.*a.png'"):
        open_training_images(settings(tmp_path), validation_transform(CFG))


def test_data_sets_of_torchvision(image_folder):
    """They are read as folders are, greyscale too."""
    for channels in (1, 3):
        cfg = {**CFG, 'input_size': (channels, 32, 32)}
        expected, found = (list(eval_loader(settings(image_folder, dataset=dataset, batch_size=50), cfg))
                           for dataset in ('', 'torch/image_folder'))
        assert all(torch.equal(a, b) for parts in zip(expected, found, strict=True) for a, b in zip(*parts))


def test_streams_are_refused():
    with pytest.raises(ConfigError, match='--dataset WDS/x is a stream, .*; use a folder .* torch/... or hfds/...'):
        settings(None, dataset='WDS/x')
