import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from timm_sbs.common.errors import SbsError
from timm_sbs.data.batches import SampleBatches, StreamBatches


class Noisy(Dataset):
    """Items that draw from every random generator an augmentation may use."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()]), index % 3


def take(batches, start, count):
    stream = batches.starting_at(start)
    return [tuple(part.tolist() for part in next(stream)) for _ in range(count)]


@pytest.mark.parametrize('workers', [0, 2])
def test_a_batch_depends_on_its_number_and_the_seed_alone(workers):
    whole = take(SampleBatches(Noisy(20), 4, 0, seed=1), 0, 14)
    batches = SampleBatches(Noisy(20), 4, workers, seed=1)
    for start in (0, 3, 5, 13):
        assert take(batches, start, 14 - start) == whole[start:]
    assert take(SampleBatches(Noisy(20), 4, workers, seed=2), 0, 3) != whole[:3]


def test_each_pass_visits_every_image_once_with_new_augmentation():
    whole = take(SampleBatches(Noisy(20), 4, 0, seed=0), 0, 10)
    passes = [[index for _, _, indices in part for index in indices] for part in (whole[:5], whole[5:])]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(20)) and passes[0] != passes[1]
    draws = [tuple(image[1:]) for images, _, _ in whole for image in images]
    assert len(set(draws)) == len(draws)


def test_processes_share_out_the_global_batch():
    alone = take(SampleBatches(Noisy(25), 6, 0, seed=0), 0, 8)
    parts = [take(SampleBatches(Noisy(25), 3, 0, seed=0, process_index=i, num_processes=2), 0, 8) for i in (0, 1)]
    for whole, first, second in zip(alone, *parts):
        assert whole == tuple(a + b for a, b in zip(first, second))


def test_reading_draws_nothing_from_the_runs_own_generators():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    take(SampleBatches(Noisy(8), 4, 0, seed=0), 0, 3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]


@pytest.mark.parametrize('processes', [1, 3])
def test_in_order_covers_every_image_once(processes):
    seen = []
    for index in range(processes):
        batches = SampleBatches(Noisy(20), 4, 0, seed=0, process_index=index, num_processes=processes)
        seen += [i for _, _, indices in batches.in_order() for i in indices.tolist()]
    assert sorted(seen) == list(range(20))


def test_too_few_images():
    with pytest.raises(SbsError, match='holds 7 images, fewer than one batch of 4 for each of 2 process'):
        SampleBatches(Noisy(7), 4, 0, seed=0, num_processes=2)


class Stream(IterableDataset):
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter([(torch.full((3,), float(i)), i) for i in range(self.size)])


def test_streams_start_again_at_their_end():
    batches = StreamBatches(DataLoader(Stream(6), batch_size=4))
    stream = batches.starting_at(5)
    assert [next(stream)[1].tolist() for _ in range(3)] == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3]]
    assert next(stream)[2].tolist() == [-1, -1]
    with pytest.raises(SbsError, match='stream of training images is empty'):
        next(StreamBatches(DataLoader(Stream(0), batch_size=4)).starting_at(0))
