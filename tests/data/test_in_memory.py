"""Images kept in memory are those of the files, read once."""
import pytest
import timm
import torch
from conftest import write_demo_images
from PIL import Image

from timm_sbs.data.folders import DataSettings
from timm_sbs.data.in_memory import ImagesInMemory
from timm_sbs.data.loaders import eval_loader, train_batches

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
SIZE = 3 * 32 * 32
IMAGES = 30  # in each split


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    images = range(0, 500, 500 // IMAGES)
    return write_demo_images(tmp_path_factory.mktemp('images'), dict.fromkeys(('train', 'validation'), images[:IMAGES]))


def settings(folder, **others):
    return DataSettings(str(folder), **{'batch_size': 8, 'workers': 0, **others})


def batches_of(folder, wanted=None, **others):
    return train_batches(settings(folder, **others), CFG, seed=3, wanted=wanted)


def take(batches, start, count):
    stream = batches.starting_at(start)
    return [next(stream) for _ in range(count)]


def same(first, second):
    return all(torch.equal(a, b) for left, right in zip(first, second, strict=True)
               for a, b in zip(left, right, strict=True))


@pytest.fixture()
def opened(monkeypatch):
    """Files that PIL has opened."""
    files, original = [], Image.open

    def counted(file, *args, **kwargs):
        files.append(file)
        return original(file, *args, **kwargs)

    monkeypatch.setattr(Image, 'open', counted)
    return files


@pytest.mark.parametrize('augmentation', [{}, {'no_aug': True}])
def test_training_images_are_those_of_the_files(folder, augmentation):
    read, kept = (batches_of(folder, image_cache=cache, **augmentation) for cache in (0, 1_000_000))
    assert isinstance(kept.dataset, ImagesInMemory) and not isinstance(read.dataset, ImagesInMemory)
    whole = take(read, 0, 7)  # two passes
    assert same(take(kept, 0, 7), whole) and same(take(kept, 5, 2), whole[5:])
    assert same(list(kept.in_order()), list(read.in_order()))


@pytest.mark.parametrize('cfg', [CFG, {**CFG, 'input_size': (3, 24, 24), 'crop_pct': 0.875}])
def test_validation_images_are_those_of_the_files(folder, cfg):
    read, kept = (eval_loader(settings(folder, image_cache=cache), cfg) for cache in (0, 1_000_000))
    assert isinstance(kept.dataset, ImagesInMemory) and len(kept) == len(read)
    for _ in range(2):
        assert same(kept, read)


def test_files_are_read_at_the_first_look_and_not_again(folder, opened):
    kept, validation = batches_of(folder), eval_loader(settings(folder), CFG)
    opened.clear()  # what was looked at to see whether it can be read
    take(kept, 0, 1)
    assert len(opened) == IMAGES
    take(kept, 2, 5)
    list(kept.in_order())
    assert len(opened) == IMAGES
    assert sum(len(images) for _ in range(3) for images, _ in validation) == 3 * IMAGES
    assert len(opened) == 2 * IMAGES


def test_workers_share_what_this_process_has_read(folder, monkeypatch):
    kept = batches_of(folder, workers=1)
    alone = take(batches_of(folder), 0, 3)
    assert same(take(kept, 0, 2), alone[:2])

    def refuse(*args, **kwargs):
        raise RuntimeError('A file was opened.')

    monkeypatch.setattr(Image, 'open', refuse)
    assert same(take(kept, 2, 1), alone[2:])


def test_only_what_fits_and_is_seen_again_is_kept(folder):
    def is_kept(**others):
        return isinstance(batches_of(folder, **others).dataset, ImagesInMemory)

    assert is_kept(image_cache=IMAGES * SIZE) and not is_kept(image_cache=IMAGES * SIZE - 1)
    assert is_kept(wanted=IMAGES + 1) and not is_kept(wanted=IMAGES)
    assert not is_kept(crop_padding=0)  # each look crops another part
    unlabelled = train_batches(
        DataSettings(unlabelled_dirs=(str(folder / 'train'), str(folder / 'validation')), batch_size=8, workers=0), CFG)
    (images, _, indices), *_ = unlabelled.in_order()
    assert isinstance(unlabelled.dataset, ImagesInMemory) and len(unlabelled.dataset) == 2 * IMAGES
    assert indices.tolist() == list(range(8)) and images.shape == (8, 3, 32, 32)
