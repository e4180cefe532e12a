"""Images through a batch's transform, beside torchvision's of one image."""
import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.nn.functional import pad

from timm_sbs.data.augmentation import data_config_of, training_transform, validation_transform
from timm_sbs.data.settings import ImageSettings

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
DRAWS = 4000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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


def test_flips_have_their_probability():
    for hflip in (0., 0.2, 1.):
        transform = training_transform(ImageSettings(crop_padding=1, hflip=hflip), CFG)
        after = transform.batch(positions().expand(DRAWS, 3, 32, 32), generator())
        assert abs((after[:, 1, 20, 20] < after[:, 1, 20, 10]).float().mean() - hflip) < 0.03


def test_processes_draw_their_parts_of_the_global_batch():
    transform, images = training_transform(ImageSettings(), CFG), positions().expand(6, 3, 32, 32)
    whole = transform.batch(images, generator())
    parts = [transform.batch(images[:3], generator(), process, 2) for process in (0, 1)]
    assert torch.equal(whole, torch.cat(parts)) and not torch.equal(whole, transform.batch(images, generator(1)))


def test_validation_images_are_timms():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 36, 3), np.uint8))
    for cfg in (CFG, {**CFG, 'input_size': (3, 24, 24), 'crop_pct': 0.875}):
        expected = create_transform(**resolve_data_config(pretrained_cfg=cfg))(image)
        for transform in (validation_transform(cfg), training_transform(ImageSettings(no_aug=True), cfg)):
            single = transform.single(image)
            assert single.dtype == torch.uint8 and torch.equal(transform.batch(single[None])[0], expected)


def test_larger_images_are_cropped_by_timm():
    for cfg, settings in (({**CFG, 'input_size': (3, 64, 64)}, ImageSettings()), (CFG, ImageSettings(crop_padding=0))):
        transform = training_transform(settings, cfg)
        assert transform.is_random and (transform.padding, transform.hflip) == (0, 0)
        assert transform.single(Image.new('RGB', (80, 70))).shape == cfg['input_size']


def test_a_network_of_one_channel_has_the_mean_of_three():
    config = data_config_of({**CFG, 'input_size': (1, 32, 32)})
    np.testing.assert_allclose(config['mean'], [np.mean(CFG['mean'])])
    np.testing.assert_allclose(config['std'], [np.mean(CFG['std'])])
