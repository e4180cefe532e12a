"""Reading of images on a machine on which every image takes a second."""
import types

import pytest
from torch.utils.data import IterableDataset

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.training.run import reading_forecast
from timm_sbs.training.run.reading_forecast import Reading, ReadingForecast


class Folder:
    """A data set that knows which of its images were read."""

    def __init__(self, count):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)


@pytest.fixture()
def ticking(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(reading_forecast, 'time', types.SimpleNamespace(perf_counter=lambda: float(next(ticks))))


class Stream(IterableDataset):
    def __iter__(self):
        raise AssertionError('It is looked at.')


def forecast(readers=0):
    return ReadingForecast(readers, make_accelerator('no', cpu=True))


def test_some_images_from_all_over_a_folder_stand_for_all(ticking, monkeypatch):
    monkeypatch.setattr(reading_forecast, 'READING_SECONDS', 100.)
    folder = Folder(64)
    assert forecast().of(folder) == Reading(each=1.)
    assert folder.read == list(range(0, 64, 2))


def test_slow_images_are_few(ticking):
    folder = Folder(64)
    assert forecast().of(folder) == Reading(each=1.)
    assert folder.read == [0]


@pytest.mark.parametrize('dataset', [None, Stream()])
def test_what_has_no_number_of_images_is_not_read(dataset):
    assert forecast().of(dataset) == Reading()


def test_the_slower_of_computing_and_reading_counts(monkeypatch):
    monkeypatch.setattr(reading_forecast, 'usable_cores', lambda: 1000)
    assert forecast().beside(3., 4.) == 7.
    assert forecast(readers=2).beside(3., 4.) == 3.
    assert forecast(readers=2).beside(3., 10.) == 5.
