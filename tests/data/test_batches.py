import itertools
import random

import numpy as np
import pytest
import timm
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from timm_sbs.common.errors import SbsError
from timm_sbs.data.augmentation import training_transform
from timm_sbs.data.batches import SampleBatches, StreamBatches
from timm_sbs.data.settings import ImageSettings


class Noisy(Dataset):
    """Items that draw from every random generator an augmentation may use."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()]), index % 3


def take(batches, start, count):
    found = itertools.islice(batches.starting_at(start), count)
    return [(images.tolist(), labels.tolist()) for images, labels in found]


@pytest.mark.parametrize('workers', [0, 2])
def test_a_batch_depends_on_its_number_and_the_seed_alone(workers):
    whole = take(SampleBatches(Noisy(20), 4, 0, seed=1), 0, 14)
    batches = SampleBatches(Noisy(20), 4, workers, seed=1)
    for start in (0, 3, 13):
        assert take(batches, start, 14 - start) == whole[start:]
    assert take(SampleBatches(Noisy(20), 4, workers, seed=2), 0, 3) != whole[:3]


def test_each_pass_visits_every_image_once_with_new_augmentation():
    images = [image for images, _ in take(SampleBatches(Noisy(22), 4, 0, seed=0), 0, 10) for image in images]
    passes = [[image[0] for image in part] for part in (images[:20], images[20:])]
    assert [len(set(indices)) for indices in passes] == [20, 20] and passes[0] != passes[1]
    assert len({tuple(image[1:]) for image in images}) == 40


def test_processes_share_the_global_batch():
    alone = take(SampleBatches(Noisy(25), 6, 0, seed=0), 0, 8)
    parts = [take(SampleBatches(Noisy(25), 3, 0, seed=0, process_index=i, num_processes=2), 0, 8) for i in (0, 1)]
    for whole, first, second in zip(alone, *parts):
        assert whole == tuple(a + b for a, b in zip(first, second))


def test_reading_draws_nothing_from_the_runs_own_generators():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    take(SampleBatches(Noisy(8), 4, 0, seed=0), 0, 3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]


def test_the_draws_of_a_whole_batch_depend_on_its_number():
    transform = training_transform(ImageSettings(), timm.get_pretrained_cfg('resnet20_cifar10').to_dict())
    images = [(torch.arange(3072).view(3, 32, 32).byte(), 0)] * 8  # all the same
    batches = SampleBatches(images, 4, 0, seed=1, transform=transform)
    whole = take(batches, 0, 3)
    assert whole[0] != whole[1] and whole[0] != whole[2] and take(batches, 1, 2) == whole[1:]


def test_too_few_images():
    with pytest.raises(SbsError, match='7 training images, fewer than one batch of 4 for each of 2 process'):
        SampleBatches(Noisy(7), 4, 0, seed=0, num_processes=2)


class Stream(IterableDataset):
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter([(torch.full((3,), float(i)), i) for i in range(self.size)])


def test_streams_start_again_at_their_end():
    stream = StreamBatches(DataLoader(Stream(6), batch_size=4)).starting_at(5)
    assert [next(stream)[1].tolist() for _ in range(3)] == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3]]
    with pytest.raises(SbsError, match='fewer than one batch'):
        next(StreamBatches(DataLoader(Stream(0), batch_size=4)).starting_at(0))
