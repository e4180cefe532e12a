"""BatchNorm statistics of a rounded network, on real weights."""
import dataclasses

import pytest
import timm
import torch
from conftest import Notes, started
from torch import nn

from timm_sbs.training.phases.recalibration import recalibrated


def exact_storage(artifact):
    return dataclasses.replace(artifact.storage, quantization=None)


@pytest.fixture(scope='module')
def coarse(small_model):
    """A network whose weights were rounded far too coarsely, with the statistics of the original."""
    artifact = started(small_model, None, bytes=57_000)
    scale = {name: 0.5 * tensor.abs().max() for name, tensor in artifact.rounded.items() if tensor.dim() == 4}
    rounded = {name: (tensor / scale[name]).round() * scale[name] if name in scale else tensor
               for name, tensor in artifact.rounded.items()}
    return dataclasses.replace(artifact, rounded=rounded, storage=exact_storage(artifact))


def moments(model, images):
    """Means and deviations of what each BatchNorm gives, by name."""
    found = {}
    hooks = [module.register_forward_hook(
        lambda module, inputs, output, name=name: found.update({name: (output.mean((0, 2, 3)), output.std((0, 2, 3)))}))
        for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return found


def farthest(model, original, images):
    """How far means and deviations are from the original's, in deviations: the median channel of the worst layer."""
    found, expected = moments(model, images), moments(original, images)
    return max(float(((abs(mean - expected[name][0]) + abs(std - expected[name][1])) / expected[name][1]).median())
               for name, (mean, std) in found.items())


def test_activations_get_the_moments_of_the_originals(small_model, coarse, images):
    seen = images[0][torch.randperm(500, generator=torch.Generator().manual_seed(0))[:200]]
    found = recalibrated(coarse, small_model, seen.split(200), Notes())
    before, after = (farthest(each.create_model(), small_model, seen) for each in (coarse, found))
    assert after < 0.02 < 0.5 < before
    changed = {name for name, tensor in found.kept.items() if not torch.equal(tensor, coarse.kept[name])}
    assert changed == {name for name in coarse.kept if name.endswith(('running_mean', 'running_var'))}


def test_an_exact_copy_stays_what_it_is(small_model, images):
    exact = started(small_model, None, bytes=57_000)
    exact = dataclasses.replace(exact, storage=exact_storage(exact))
    found = recalibrated(exact, small_model, images[0][:100].split(50), Notes())
    assert all(torch.allclose(tensor, exact.kept[name], rtol=1e-4, atol=1e-4) for name, tensor in found.kept.items())


def test_it_is_kept_only_where_it_helps(small_model, coarse, images):
    class Worse(Notes):
        def is_better(self, artifact, other):
            return False

    assert recalibrated(coarse, small_model, images[0][:50].split(50), Worse()) is coarse


def test_networks_without_batch_norm_are_left_alone(images):
    model = timm.create_model('test_vit', num_classes=10, img_size=32).eval()
    artifact = started(model, None, bytes=400_000)
    assert recalibrated(artifact, model, images[0][:50].split(50), Notes()) is artifact
