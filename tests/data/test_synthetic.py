import pytest
import timm
import torch
from accelerate import Accelerator
from timm.data import resolve_data_config

from timm_sbs.common.errors import SbsError
from timm_sbs.data.synthetic import InversionSettings, NoiseImages, SyntheticImages, invert

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


def test_images_match_the_statistics_better_than_noise(resnet20):
    settings = InversionSettings(images=12, steps=20, batch_size=8)
    drawn, labels = invert(resnet20, CONFIG, settings, Accelerator(cpu=True), seed=1)
    assert drawn.shape == (12, 3, 32, 32) and labels.shape == (12,) and 4 <= len(labels.unique()) <= 10
    assert all(not m._forward_pre_hooks for m in resnet20.modules())
    torch.manual_seed(0)
    noise = torch.stack([NoiseImages(CONFIG)[0][0] for _ in range(12)])
    matched, of_noise, of_white_noise = (
        statistics_error(resnet20, x) for x in (drawn.float(), noise, torch.randn(12, 3, 32, 32)))
    assert matched < 0.6 * of_noise and of_noise < 0.8 * of_white_noise
    with torch.no_grad():
        assert float((resnet20(drawn.float()).argmax(1) == labels).float().mean()) > 0.9
    low, high = ((v - torch.tensor(CONFIG['mean'])) / torch.tensor(CONFIG['std']) for v in (0., 1.))
    for image in (drawn.float(), noise):
        assert ((image >= low[:, None, None] - 2e-3) & (image <= high[:, None, None] + 2e-3)).all()  # visible colours


def test_same_seed_same_images_and_no_random_state_is_touched(resnet20):
    settings = InversionSettings(images=4, steps=2)
    before = torch.get_rng_state()
    first, second, other = (invert(resnet20, CONFIG, settings, Accelerator(cpu=True), seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_without_batch_norm():
    with pytest.raises(SbsError, match='has no BatchNorm statistics .* use --data-free noise'):
        invert(torch.nn.Conv2d(3, 3, 3), CONFIG, InversionSettings(), Accelerator(cpu=True))


def test_noise_is_smooth_and_never_the_same():
    noise = NoiseImages({**CONFIG, 'input_size': (1, 48, 64), 'mean': (0.5,), 'std': (0.25,)})
    first, second = noise[0][0], noise[0][0]
    assert first.shape == (1, 48, 64) and not torch.equal(first, second)
    assert float((first[:, 1:] - first[:, :-1]).square().mean()) < float(first.var())  # of white noise: twice it


def test_synthetic_images_are_shifted_and_flipped():
    image = torch.rand(3, 16, 24).half()
    dataset = SyntheticImages(image[None], torch.tensor([7]))
    seen = {dataset[0][0].numpy().tobytes() for _ in range(60)}
    padded = torch.nn.functional.pad(image.float()[None], (3, 3, 2, 2), mode='reflect')[0]
    windows = [padded[:, y:y + 16, x:x + 24] for y in range(5) for x in range(7)]
    assert seen <= {view.contiguous().numpy().tobytes() for window in windows for view in (window, window.flip(2))}
    assert len(seen) > 20 and dataset[0][1] == 7
