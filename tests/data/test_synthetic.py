import pytest
import timm
import torch
from accelerate import Accelerator
from timm.data import resolve_data_config

from timm_sbs.common.errors import SbsError
from timm_sbs.data.augmentation import ImageTransform
from timm_sbs.data.synthetic import drawn_transform, invert

CONFIG = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg('resnet20_cifar10').to_dict())


def statistics_error(model, images):
    """Mean over BatchNorm layers of the distance of the means, and of the log ratio of the variances, both squared."""
    errors = []

    def hook(module, inputs):
        x, variance = inputs[0], module.running_var + module.eps
        mean_error = (x.mean((0, 2, 3)) - module.running_mean).square() / variance
        errors.append(mean_error.mean() + (x.var((0, 2, 3)) / variance).log().square().mean())

    hooks = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        model(images)
    for h in hooks:
        h.remove()
    return float(torch.stack(errors).mean())


def drawn(model, *args, **kwargs):
    """uint8 images, and as the network takes them."""
    images = invert(model, CONFIG, *args, Accelerator(cpu=True), **kwargs)
    return images, ImageTransform(CONFIG).batch(images)


def test_images_match_the_statistics(resnet20):
    images, normalised = drawn(resnet20, 12, 20, seed=1)
    assert images.shape == (12, 3, 32, 32) and images.dtype == torch.uint8
    assert all(not m._forward_pre_hooks for m in resnet20.modules())
    start, white = drawn(resnet20, 12, 0, seed=1)[1], torch.randn(12, 3, 32, 32)
    matched, of_noise, of_white_noise = (statistics_error(resnet20, x) for x in (normalised, start, white))
    assert matched < 0.6 * of_noise and of_noise < 0.8 * of_white_noise
    with torch.no_grad():
        predicted = resnet20(normalised).softmax(1).max(1)
    assert float(predicted.values.mean()) > 0.9 and 4 <= len(predicted.indices.unique()) <= 10


def test_same_seed_same_images_and_no_random_state_is_touched(resnet20):
    before = torch.get_rng_state()
    first, second, other = (drawn(resnet20, 4, 2, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_without_batch_norm():
    with pytest.raises(SbsError, match='has no BatchNorm statistics .* use --images'):
        drawn(torch.nn.Conv2d(3, 3, 3), 4, 2)


def test_drawn_images_are_shifted_and_flipped():
    image = torch.randint(256, (3, 16, 24), dtype=torch.uint8)
    transform = drawn_transform({'input_size': (3, 16, 24), 'mean': 3 * (0.,), 'std': 3 * (1 / 255,)})
    seen = {view.numpy().tobytes() for view in transform.batch(image.expand(100, 3, 16, 24)).round().byte()}
    padded = torch.nn.functional.pad(image.float(), (2, 2, 2, 2), 'reflect').byte()  # no edges at the borders
    windows = [padded[:, y:y + 16, x:x + 24] for y in range(5) for x in range(5)]
    assert seen <= {view.contiguous().numpy().tobytes() for window in windows for view in (window, window.flip(2))}
    assert len(seen) > 30
