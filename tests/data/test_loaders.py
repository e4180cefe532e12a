"""Which images are trained on, sampled, held out and validated on."""
import itertools

import pytest
import timm
import torch
from conftest import process
from PIL import Image

from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.data import loaders
from timm_sbs.data.datasets import ImagesInMemory
from timm_sbs.data.loaders import eval_loader, split_indices
from timm_sbs.data.settings import ImageSettings

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()


def settings(folder, **others):
    return ImageSettings(**{'data_dir': str(folder), 'batch_size': 40, 'workers': 0, 'no_aug': True, **others})


def train_batches(given, cfg=CFG, accelerator=process(), **others):
    return loaders.train_batches(given, cfg, accelerator, **others)


def sample_and_held_out(given, count, seed=0, accelerator=process()):
    return loaders.sample_and_held_out(given, CFG, accelerator, count, seed)


def seen(batches):
    """The images of some batches, in any order: a set of their values."""
    batches = (batch if isinstance(batch, torch.Tensor) else batch[0] for batch in batches)
    return {image.numpy().tobytes() for images in batches for image in images}


def one_pass(given, *processes):
    batches = train_batches(given, CFG, process(*processes))
    size = given.batch_size * batches.accelerator.num_processes
    return seen(take(batches, 0, len(batches.dataset) // size))


@pytest.mark.parametrize('count, wanted, expected', [
    (50_000, None, 2000), (400, None, 40), (100, None, 10), (99, None, 0), (99, 5, 5), (9000, 5000, 5000), (400, 0, 0)])
def test_every_image_is_either_trained_on_or_held_out(count, wanted, expected):
    training, held_out = split_indices(count, wanted)
    assert len(held_out) == expected and sorted(training + held_out) == list(range(count))
    assert training == sorted(training) and split_indices(count, wanted) == (training, held_out)
    if expected >= 40:  # from everywhere
        assert sum(index < count / 2 for index in held_out) / expected == pytest.approx(0.5, abs=0.25)


def test_held_out_images_are_neither_trained_on_nor_sampled(image_folder):
    given = settings(image_folder)
    training, whole = one_pass(given), one_pass(settings(image_folder, holdout_images=0))
    sample, held_out = sample_and_held_out(given, 1000)
    assert (sample.count, held_out.count, len(whole)) == (360, 40, 400)
    assert training == seen(sample.batches) == whole - seen(held_out.batches)
    assert len(seen(held_out.batches)) == 40 and not seen(eval_loader(given, CFG)) & whole


def test_processes_share_all_of_them(image_folder):
    given = settings(image_folder, holdout_images=45, batch_size=5)
    samples, parts = zip(*(sample_and_held_out(given, 30, 1, process(index, 2)) for index in (0, 1)))
    sample, held_out = sample_and_held_out(given, 30, 1)
    first, second = (seen(part.batches) for part in parts)
    assert [part.count for part in parts] == [45, 45] and (len(first), len(second)) == (23, 22)
    assert first | second == seen(held_out.batches)
    assert [part.count for part in samples] == [30, 30]
    first, second = (seen(part.batches) for part in samples)
    assert first | second == seen(sample.batches)
    assert len(one_pass(given, 0, 2) | one_pass(given, 1, 2)) == 350  # of 355, in batches of 10


def test_what_leaves_nothing_is_refused(image_folder):
    with pytest.raises(ConfigError, match='--holdout-images 400 leaves none of 400 training image'):
        train_batches(settings(image_folder, holdout_images=400), CFG)
    with pytest.raises(SbsError, match='There are 360 training images, fewer than one batch of 512'):
        train_batches(settings(image_folder, batch_size=512), CFG)


def test_folders_of_images_are_added(image_folder):
    folders = str(image_folder / 'train' / 'cat'), str(image_folder / 'validation')
    count = len(list((image_folder / 'train' / 'cat').iterdir())) + 100
    alone = settings(image_folder, images=folders, data_dir=None, holdout_images=0)
    assert len(train_batches(alone, CFG).dataset) == count
    assert sample_and_held_out(alone, 1000)[0].count == count
    assert len(train_batches(settings(image_folder, images=folders, holdout_images=0), CFG).dataset) == count + 400


def test_beside_images_there_may_be_a_validation_split_alone(image_folder, tmp_path):
    (tmp_path / 'validation').symlink_to(image_folder / 'validation')
    given = settings(tmp_path, images=str(image_folder / 'train'), holdout_images=0)
    assert len(train_batches(given, CFG).dataset) == 400 and len(eval_loader(given, CFG).dataset) == 100
    with pytest.raises(SbsError, match="has no split 'trian'"):
        train_batches(settings(tmp_path, images=given.images, train_split='trian'), CFG)


def test_networks_of_one_channel(image_folder):
    images, _ = next(iter(eval_loader(settings(image_folder), {**CFG, 'input_size': (1, 32, 32)})))
    colours, _ = next(iter(eval_loader(settings(image_folder), CFG)))
    assert images.shape == (40, 1, 32, 32) and colours.shape == (40, 3, 32, 32)
    assert torch.corrcoef(torch.stack([images.flatten(), colours.mean(1).flatten()]))[0, 1] > 0.98
    with pytest.raises(SbsError, match='images of 4 channels, but files have 1 or 3'):
        train_batches(settings(image_folder), {**CFG, 'input_size': (4, 32, 32)})


def take(batches, start, count):
    return list(itertools.islice(batches.starting_at(start), count))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize('no_aug', [False, True])
def test_images_kept_in_memory_are_those_of_the_files(image_folder, no_aug):
    given = settings(image_folder, no_aug=no_aug)
    kept, read = (train_batches(given, CFG, wanted=wanted) for wanted in (None, 1))
    assert isinstance(kept.dataset, ImagesInMemory) and not isinstance(read.dataset, ImagesInMemory)
    whole = take(read, 0, 10)  # a pass has 9
    assert same(take(kept, 0, 10), whole) and same(take(kept, 8, 2), whole[8:])


def test_files_are_read_when_images_are_asked_for_and_not_again(image_folder, monkeypatch):
    opened, original = [], Image.open
    monkeypatch.setattr(Image, 'open', lambda file, *args, **kwargs: (opened.append(file), original(file))[1])
    training = train_batches(settings(image_folder), CFG)
    _, held_out = sample_and_held_out(settings(image_folder), 1)
    validation = eval_loader(settings(image_folder), CFG)
    opened.clear()
    take(training, 0, 10)
    take(training, 3, 9)
    assert len(opened) == 360
    assert seen(held_out.batches) == seen(held_out.batches) and len(opened) == 400
    list(validation)  # which is looked at once
    assert len(opened) == 500


def test_only_what_fits_and_is_seen_again_is_kept(image_folder, monkeypatch):
    def is_kept(wanted=None, cfg=CFG):
        return isinstance(
            train_batches(settings(image_folder, no_aug=False), cfg, wanted=wanted).dataset, ImagesInMemory)

    assert is_kept(wanted=361) and not is_kept(wanted=360)
    assert not is_kept(cfg={**CFG, 'input_size': (3, 64, 64)})  # each time another part is cropped
    monkeypatch.setattr(loaders, 'IMAGE_CACHE', 360 * 3072 - 1)
    assert not is_kept()
