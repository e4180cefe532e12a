import itertools
import random

import numpy as np
import pytest
import timm
import torch
from conftest import process
from torch.utils.data import Dataset

from timm_sbs.common.errors import SbsError
from timm_sbs.data.augmentation import training_transform
from timm_sbs.data.batches import TrainingBatches
from timm_sbs.data.settings import ImageSettings

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()


class AsTheyAre:
    """In place of a transform."""

    def batch(self, images, generator):
        return images


class Noisy(Dataset):
    """Items that draw from every random generator an augmentation may use."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()]), index % 3


def noisy(size, batch_size, workers=0, accelerator=process(), **others):
    return TrainingBatches(Noisy(size), AsTheyAre(), batch_size, workers, accelerator, **others)


def take(batches, start, count):
    return [images.tolist() for images in itertools.islice(batches.starting_at(start), count)]


@pytest.mark.parametrize('workers', [0, 2])
def test_a_batch_depends_on_its_number_and_the_seed_alone(workers):
    whole, batches = take(noisy(20, 4, seed=1), 0, 14), noisy(20, 4, workers, seed=1)
    for start in (0, 3, 13):
        assert take(batches, start, 14 - start) == whole[start:]
    assert take(noisy(20, 4, workers, seed=2), 0, 3) != whole[:3]


def test_each_pass_visits_every_image_once_with_new_augmentation():
    images = [image for images in take(noisy(22, 4), 0, 10) for image in images]
    passes = [[image[0] for image in part] for part in (images[:20], images[20:])]
    assert [len(set(indices)) for indices in passes] == [20, 20] and passes[0] != passes[1]
    assert len({tuple(image[1:]) for image in images}) == 40


def test_processes_share_the_global_batch_and_each_draws_for_itself():
    alone = take(noisy(25, 6), 0, 8)
    parts = [take(noisy(25, 3, accelerator=process(index, 2)), 0, 8) for index in (0, 1)]
    for whole, first, second in zip(alone, *parts):
        assert [image[0] for image in whole] == [image[0] for image in first + second]
        assert not {image[1] for image in first} & {image[1] for image in second}


def test_reading_draws_nothing_from_the_runs_own_generators():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    take(noisy(8, 4), 0, 3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]


@pytest.mark.parametrize('mixup', [0., 1.])
def test_the_draws_of_a_whole_batch_depend_on_its_number_and_process(mixup):
    """Without mixing, and with it alone."""
    transform = training_transform(ImageSettings(no_aug=mixup > 0), CFG)
    images = [(torch.arange(3072).view(3, 32, 32).byte() // (1 + index % 2), 0) for index in range(2)] * 4

    def batches(*of):
        return TrainingBatches(images, transform, 4, 0, process(*of), seed=1, mixup=mixup)

    whole = take(batches(), 0, 3)
    assert whole[0] != whole[1] and whole[0] != whole[2] and take(batches(), 1, 2) == whole[1:]
    images[:] = images[:1] * 8  # now processes differ by what they draw alone
    if not mixup:
        assert take(batches(0, 2), 0, 1) != take(batches(1, 2), 0, 1)


def test_images_grow_from_batch_to_batch():
    images = [(torch.zeros(3, 32, 32, dtype=torch.uint8), 0)] * 8
    transform = training_transform(ImageSettings(), CFG)
    grown = TrainingBatches(images, transform, 4, 0, process(), sizes=(16, 32), count=9)
    assert [len(batch[0][0]) for batch in take(grown, 0, 9)] == [16] + 7 * [32] + [32]
    assert [len(batch[0][0]) for batch in take(grown, 8, 2)] == [32, 32]


def test_too_few_images():
    with pytest.raises(SbsError, match='7 training images, fewer than one batch of 4 for each of 2 process'):
        noisy(7, 4, accelerator=process(0, 2))
