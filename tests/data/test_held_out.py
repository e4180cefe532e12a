import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from timm_sbs.common.errors import ConfigError
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.held_out import part_of, split_places
from timm_sbs.data.loaders import eval_loader, held_out_loader, sample_loader, train_batches
from timm_sbs.data.pictures import Pictures

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()


def settings(folder, **others):
    return DataSettings(str(folder), batch_size=40, workers=0, no_aug=True, **others)


def seen(batches):
    """The images of some batches, in any order: a set of their values."""
    return {image.numpy().tobytes() for images, *_ in batches for image in images}


@pytest.mark.parametrize('count, wanted, expected', [
    (50_000, None, 2000), (400, None, 40), (100, None, 10), (99, None, 0), (99, 5, 5), (9000, 5000, 5000), (400, 0, 0)])
def test_every_image_is_either_trained_on_or_held_out(count, wanted, expected):
    training, held_out = split_places(count, wanted)
    assert len(held_out) == expected and sorted(training + held_out) == list(range(count))
    assert training == sorted(training) and split_places(count, wanted) == (training, held_out)
    if expected >= 40:  # from everywhere
        assert sum(place < count / 2 for place in held_out) / expected == pytest.approx(0.5, abs=0.25)


def test_what_leaves_nothing_is_refused(image_folder):
    with pytest.raises(ConfigError, match='--holdout-images 400 leaves none of 400 training image'):
        train_batches(settings(image_folder, holdout_images=400), CFG)
    with pytest.raises(ConfigError, match='--holdout-images is -1, but must be 0 or more'):
        DataSettings(holdout_images=-1)


@pytest.mark.parametrize('cache', [0, 1_000_000_000])
def test_held_out_images_are_neither_trained_on_nor_sampled(image_folder, cache):
    given = settings(image_folder, image_cache=cache)
    whole = seen(train_batches(settings(image_folder, holdout_images=0), CFG).in_order())
    training = seen(train_batches(given, CFG).in_order())
    sampled = seen(sample_loader(given, CFG, 1000)[0])
    held_out = held_out_loader(given, CFG)
    assert held_out.count == len(seen(held_out.batches)) == 40 and len(whole) == 400
    assert training == sampled == whole - seen(held_out.batches)
    assert seen(held_out.batches) < whole  # not augmented
    assert not seen(held_out.batches) & seen(eval_loader(given, CFG))


def test_processes_share_them(image_folder):
    parts = [held_out_loader(settings(image_folder, holdout_images=45), CFG, process, 2) for process in (0, 1)]
    assert [part.count for part in parts] == [45, 45]
    first, second = (seen(part.batches) for part in parts)
    assert (len(first), len(second)) == (23, 22) and not first & second
    assert first | second == seen(held_out_loader(settings(image_folder, holdout_images=45), CFG).batches)


def test_folders_that_are_put_together_and_streams():
    labels = range(60), range(60, 120)
    parts = Pictures([[(Image.new('L', (1, 1)), label) for label in some] for some in labels], 1)
    parts.transform = lambda image: torch.zeros(1)
    values = [{part[i][1] for i in range(len(part))} for part in (part_of(parts, None), part_of(parts, None, True))]
    assert [len(part) for part in values] == [108, 12] and values[0] | values[1] == set(range(120))

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    stream = Stream()
    assert part_of(stream, None) is stream and part_of(stream, 50, held_out=True) is None
    few = parts.part(range(20))
    assert part_of(few, None) is few and part_of(few, None, held_out=True) is None
