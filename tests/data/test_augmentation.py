"""Images through a batch's transform, beside torchvision's of one image; mixtures; sizes."""
import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.nn.functional import pad

from timm_sbs.common.errors import SbsError
from timm_sbs.data.augmentation import (
    check_sizes,
    data_config_of,
    kept_random_states,
    mixed,
    resize,
    size_at,
    training_transform,
    validation_transform,
)
from timm_sbs.data.settings import ImageSettings

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
DRAWS = 4000


def generator():
    return torch.Generator().manual_seed(0)


def pixels(transform, images):
    """Normalised images as numbers from 0 to 255 again."""
    mean, std = (torch.tensor(transform.data_config[name]).view(-1, 1, 1) for name in ('mean', 'std'))
    return ((images * std + mean) * 255).round().byte()


def positions():
    """An image whose channels are row and column plus 1, so that each pixel says where it was: [3, 32, 32]."""
    rows = torch.arange(1, 33, dtype=torch.uint8)
    return torch.stack([rows[:, None].expand(32, 32), rows.expand(32, 32), torch.ones(32, 32, dtype=torch.uint8)])


def test_every_shift_and_flip_is_as_likely():
    transform = training_transform(ImageSettings(), CFG)
    found = pixels(transform, transform.batch(positions().expand(DRAWS, 3, 32, 32), generator()))
    padded = pad(positions(), [4] * 4)
    counts = torch.zeros(9, 9, 2)
    for image in found:
        flipped = bool(image[1, 16, 15] > image[1, 16, 16])
        plain = image.flip(2) if flipped else image
        top, left = int(plain[0, 16, 16]) - 13, int(plain[1, 16, 16]) - 13
        assert torch.equal(plain, padded[:, top:top + 32, left:left + 32])  # black is shifted in
        counts[top, left, int(flipped)] += 1
    expected = DRAWS / counts.numel()
    assert ((counts - expected) ** 2 / expected).sum() < 231  # chi-square, of 161 degrees of freedom: 1 in 5,000


def test_validation_images_are_timms():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 36, 3), np.uint8))
    for cfg in (CFG, {**CFG, 'input_size': (3, 24, 24), 'crop_pct': 0.875}):
        expected = create_transform(**resolve_data_config(pretrained_cfg=cfg))(image)
        for transform in (validation_transform(cfg), training_transform(ImageSettings(no_aug=True), cfg)):
            single = transform.single(image)
            assert single.dtype == torch.uint8 and torch.equal(transform.batch(single[None])[0], expected)


def test_larger_images_are_cropped_by_timm():
    transform = training_transform(ImageSettings(), {**CFG, 'input_size': (3, 64, 64)})
    assert transform.is_random and transform.shift == 0
    assert transform.single(Image.new('RGB', (80, 70))).shape == (3, 64, 64)


def test_a_network_of_one_channel_has_the_mean_of_three():
    config = data_config_of({**CFG, 'input_size': (1, 32, 32)})
    np.testing.assert_allclose(config['mean'], [np.mean(CFG['mean'])])
    np.testing.assert_allclose(config['std'], [np.mean(CFG['std'])])


def test_what_is_drawn_within_a_block_changes_nothing_after_it():
    def drawn():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    with kept_random_states():
        expected = drawn()
    with kept_random_states(3):
        seeded = drawn()
    with kept_random_states(3):
        assert drawn() == seeded
    assert drawn() == expected != seeded


def batch():
    return torch.rand(4, 3, 8, 8, generator=generator())


def test_mixtures_are_of_pairs_and_depend_on_the_seed():
    found, again, other = (mixed(batch(), 1., seed) for seed in (7, 7, 8))
    assert torch.equal(found, again) and not torch.equal(found, other)
    first, last = batch()[0], batch()[3]
    share = ((found[0] - last) / (first - last)).median()
    torch.testing.assert_close(found[0], share * first + (1 - share) * last)
    assert torch.equal(mixed(batch(), 0., 7), batch())


def test_sizes_go_from_the_first_to_the_last_in_steps_of_32():
    sizes = [size_at((128, 224), step, 100) for step in range(100)]
    assert sizes[0] == 128 and sizes[-1] == 224 and sizes == sorted(sizes) and set(sizes) == {128, 160, 192, 224}
    assert [size_at((24, 32), step, 2) for step in range(2)] == [24, 32] and size_at((160,), 5, 9) == 160


def test_images_keep_their_proportions():
    images = torch.rand(2, 3, 32, 48)
    assert resize(images, 16).shape == (2, 3, 16, 24) and resize(images, 32) is images
    torch.testing.assert_close(resize(torch.ones(1, 3, 32, 32), 20), torch.ones(1, 3, 20, 20))


class OddSizes(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 1, 1)

    def forward(self, images):
        if images.shape[2] == 96:
            raise ValueError('odd')


def test_sizes_that_the_original_cannot_take(resnet20):
    check_sizes(resnet20, (16, 32), (3, 32, 32))
    check_sizes(OddSizes(), (64,), (3, 128, 128))
    with pytest.raises(SbsError, match="--train-size 64 is larger than the model's images, 32 pixels"):
        check_sizes(resnet20, (16, 64), (3, 32, 32))
    for sizes in ((64, 128), (128, 64), (96,)):
        with pytest.raises(SbsError, match='cannot be run on images of --train-size 96: odd'):
            check_sizes(OddSizes(), sizes, (3, 128, 128))
