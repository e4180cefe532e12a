"""Images through a batch's transform, beside torchvision's of one image."""
import timm
import torch
from PIL import Image
from timm.data import resolve_data_config

from timm_sbs.cli.demo import load_demo_images
from timm_sbs.data.augmentation import plain_steps, training_steps
from timm_sbs.data.folders import DataSettings

CONFIG = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg('resnet20_cifar10').to_dict())
DRAWS = 4000
SHIFTS = 9  # of each axis: by -4 to 4 pixels


def steps_of(**settings):
    return training_steps(DataSettings(**settings), CONFIG)


def names(steps):
    return [type(step).__name__ for step in steps.whole.transforms]


def augmented(steps, images, total=None, part=slice(None), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return steps.batch.augmented(images, generator, part, total or len(images))


def places():
    """An image whose channels are row and column plus 1, so that each pixel says where it was: [3, 32, 32]."""
    rows = torch.arange(1, 33, dtype=torch.uint8)
    return torch.stack([rows[:, None].expand(32, 32), rows.expand(32, 32), torch.ones(32, 32, dtype=torch.uint8)])


def draw_of(image):
    """Shifts down and right, and whether it is flipped, of an image that was :func:`places`."""
    row, column = image[0, 16, 16], image[1, 16, 16]
    flipped = bool(image[1, 16, 15] > column)
    return 17 - int(row), (17 if not flipped else 16) - int(column), flipped


def counts(draws):
    table = torch.zeros(SHIFTS, SHIFTS, 2)
    for down, right, flipped in draws:
        table[down + 4, right + 4, int(flipped)] += 1
    return table.flatten()


def test_shifts_and_flips_are_distributed_as_torchvisions():
    steps = steps_of()
    batch = augmented(steps, places().expand(DRAWS, 3, 32, 32))
    picture = Image.fromarray(places().permute(1, 2, 0).numpy())
    torch.manual_seed(0)
    mean, std = (torch.tensor(CONFIG[key]).view(3, 1, 1) for key in ('mean', 'std'))
    single = [((steps.whole(picture) * std + mean) * 255).round() for _ in range(DRAWS)]
    ours, theirs = counts(map(draw_of, batch)), counts(map(draw_of, single))
    expected = DRAWS / len(ours)
    for found in (ours, theirs):  # chi-square, of 161 degrees of freedom: 231 in one case of 5,000
        assert found.min() > 0 and ((found - expected) ** 2 / expected).sum() < 231
    # A draw alone decides what is seen, also what is shifted in: black, before it is normalised.
    by_draw = {draw_of(image): image for image in single}
    assert all(torch.equal(image.float(), by_draw[draw_of(image)]) for image in batch[:200])


def test_flips_have_their_probability():
    image = places().expand(DRAWS, 3, 32, 32)
    for hflip in (0., 0.2, 1.):
        steps = steps_of(crop_padding=1, hflip=hflip)
        after = augmented(steps, image)
        shares = [(after[:, c, 20, 20] < after[:, c, 10, 10]).float().mean().item() for c in (0, 1)]
        assert abs(shares[1] - hflip) < 0.03 and shares[0] == 0


def test_processes_draw_their_part_of_the_global_batch():
    steps, images = steps_of(), places().expand(6, 3, 32, 32)
    whole = augmented(steps, images)
    parts = [augmented(steps, images[part], 6, part) for part in (slice(0, 3), slice(3, 6))]
    assert torch.equal(whole, torch.cat(parts)) and not torch.equal(whole, augmented(steps, images, seed=1))
    assert torch.equal(augmented(steps, images[:2], 6, slice(0, 3)), whole[:2])  # a last batch that is shorter


def test_normalised_as_one_image_is():
    pictures = [Image.fromarray(image) for image in load_demo_images().images[:20]]
    for config in (CONFIG, {**CONFIG, 'input_size': (3, 24, 24), 'crop_pct': 0.875}):
        steps = plain_steps(config)
        whole = torch.stack([steps.whole(picture) for picture in pictures])
        fixed = torch.stack([steps.fixed(picture) for picture in pictures])
        assert fixed.dtype == torch.uint8 and torch.equal(steps.batch.normalised(fixed), whole)


def test_no_padding_means_timms_own_augmentation():
    steps = steps_of(crop_padding=0)
    assert names(steps)[0] == 'RandomResizedCropAndInterpolation' and steps.fixed is None and steps.batch is None
