import copy

import pytest
import torch
from conftest import fit_quickly, started

from timm_sbs.common.config import EncodingConfig, OrderingConfig, SelectionRule
from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.predictor.generator import Generator, relative_error
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.steps.reconstruction import _ShuffledKernels, group_targets, reconstruct

NERN = dict(
    ordering=OrderingConfig('layer', 'grid'), encoding=EncodingConfig(kind='positional'), activation='relu')


def error_of(artifact):
    return artifact.results['reconstruction_error']


def test_targets_are_the_kernels_in_place_order(resnet20):
    generator = started(resnet20, pct=5.).generator
    targets, = group_targets(generator, resnet20.state_dict())
    kernels = targets[generator.groups[0].place_of_kernel]
    weights = [resnet20.get_parameter(s.name).detach().reshape(-1, 9) for s in generator.specs]
    torch.testing.assert_close(kernels, torch.cat([w / w.square().mean().sqrt() for w in weights]))
    # along the path, real kernels are close to their predecessors
    last = targets[-generator.specs[-1].num_kernels:]
    assert (last[1:] - last[:-1]).square().sum() < 0.7 * 2 * last.square().sum()


def test_reported_error_is_that_of_the_generated_weights(resnet20):
    artifact = fit_quickly(resnet20, steps=30)
    expected = relative_error(artifact.generator(), resnet20.state_dict())
    assert error_of(artifact) == pytest.approx(expected, rel=1e-4)


def test_real_weights_are_learned_and_nerns_configuration_learns_less(resnet20):
    """At 20 % and 100 steps: NeRN's configuration stays near 1, the mean of all kernels."""
    ours = error_of(fit_quickly(resnet20, steps=100, pct=20.))
    nern = error_of(fit_quickly(resnet20, steps=100, pct=20., **NERN))
    assert ours < 0.4 and ours < 0.6 * nern


@pytest.mark.parametrize('settings', [
    dict(ordering=OrderingConfig('layer', 'grid')), dict(ordering=OrderingConfig('filter', 'grid')),
    dict(ordering=OrderingConfig('axes', 'grid')), dict(ordering=OrderingConfig('nothing', 'grid')),
    dict(encoding=EncodingConfig(bandwidth=16., bandwidth_exponent=0.)), NERN,
    dict(linear_layers=3, activation='sine')])
def test_every_ablation_is_a_setting_that_can_be_stored(resnet20, settings, tmp_path):
    from timm_sbs.artifact.folder import load_artifact, save_artifact
    artifact = fit_quickly(resnet20, steps=3, pct=20., storage_dtype='float32', **settings)
    save_artifact(tmp_path, artifact)
    state, expected = load_artifact(tmp_path).state_dict(), artifact.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_same_seed_same_predictor(resnet20):
    first, second = fit_quickly(resnet20, steps=5), fit_quickly(resnet20, steps=5)
    assert all(torch.equal(a, b) for a, b in zip(first.generator.parameters(), second.generator.parameters()))


def test_kernels_of_two_sizes_share_a_predictor():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 16, 5))
    model.pretrained_cfg = dict(architecture='resnet18', first_conv='0', num_classes=0, input_size=(3, 32, 32))
    model.num_classes = 0
    chosen = design(model, pct=60.)
    orderings = find_orderings(model, chosen.specs, chosen.generator.ordering)
    generator = Generator.fresh(  # timm cannot build the network
        chosen.generator, chosen.specs, orderings, seed=0, weights=model.state_dict())
    assert set(generator.predictor.heads) == {'9', '25'}
    start = relative_error(generator(), model.state_dict())
    error = reconstruct(generator, model.state_dict(), ReconstructionSettings(steps=300, batch_size=100))
    assert error < 0.7 * start
    assert {n: w.shape for n, w in generator().items()} == {
        '1.weight': (16, 16, 3, 3), '2.weight': (16, 16, 5, 5)}


def test_budget_is_used_and_kept(resnet20):
    total = sum(p.numel() for p in resnet20.parameters())
    for pct in (5., 20., 50.):
        assert 0.97 * pct < 100 * design(resnet20, pct=pct).num_parameters / total <= pct


def test_predictor_too_small_to_exist(resnet20):
    with pytest.raises(ConfigError, match='cannot exist'):
        design(resnet20, pct=0.01)


def test_predictor_larger_than_what_it_generates(resnet20):
    rule = SelectionRule(keep=('layer2.*', 'layer3.*'))
    with pytest.raises(ConfigError, match='for the 13,824 weights that it would generate saves nothing'):
        design(resnet20, pct=20., rule=rule)
    assert len(design(resnet20, pct=4.5, rule=rule).specs) == 6


def test_batches_of_kernels_are_the_same_wherever_one_starts():
    def kernels(start, count):
        stream = _ShuffledKernels(50, 16, seed=3, device=torch.device('cpu')).starting_at(start)
        return [next(stream).tolist() for _ in range(count)]

    whole = kernels(0, 12)
    assert sorted(sum(whole[:4], [])) == list(range(50)) and whole[:4] != whole[4:8]
    assert kernels(5, 7) == whole[5:]


def test_divergence_is_one_sentence(resnet20):
    with pytest.raises(SbsError, match='loss of reconstruction is .* at step .* Lower its learning rate'):
        weights = {k: v * (float('nan') if k.endswith('conv1.weight') else 1) for k, v in resnet20.state_dict().items()}
        reconstruct(started(resnet20).generator, weights, ReconstructionSettings(steps=3))


def scaled(model, names, factor):
    """The same function: convolutions times a factor, and with them the statistics of the BatchNorm that follows."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            block, conv = name.rsplit('.', 1)
            norm = model.get_submodule(f'{block}.{conv.replace("conv", "bn")}')
            model.get_submodule(name).weight.mul_(factor)
            norm.running_mean.mul_(factor)
            norm.running_var.mul_(factor ** 2)
    return model


@pytest.mark.parametrize('bits', [None, 5.])
@pytest.mark.parametrize('names, factor', [
    (['layer1.0.conv1'], 32.), (['layer2.0.conv2', 'layer3.1.conv1'], 2. ** -10)])
def test_scales_of_layers_change_nothing(resnet20, names, factor, bits):
    """Factors are powers of two: all that is computed is the same, bit by bit."""
    plain = fit_quickly(resnet20, steps=20, bits=bits, storage_dtype='float32')
    other = fit_quickly(scaled(resnet20, names, factor), steps=20, bits=bits, storage_dtype='float32')
    assert error_of(plain) == pytest.approx(error_of(other), rel=1e-6)
    found, expected = other.stored_weights(), plain.stored_weights()
    for name, weight in expected.items():
        changed = name.removesuffix('.weight') in names
        torch.testing.assert_close(found[name], weight * factor if changed else weight, rtol=1e-4, atol=1e-7 * factor)


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_a_layer_of_zeros_and_one_of_tiny_numbers(resnet20, dtype, tmp_path):
    from timm_sbs.artifact.folder import load_artifact, save_artifact
    model = copy.deepcopy(resnet20)
    with torch.no_grad():
        model.layer2[1].conv1.weight.zero_()
        model.layer1[1].conv1.weight.mul_(1e-20)
    artifact = fit_quickly(model, steps=60, storage_dtype=dtype)
    save_artifact(tmp_path, artifact)
    weights = load_artifact(tmp_path).weights()
    assert not weights['layer2.1.conv1.weight'].any() and all(w.isfinite().all() for w in weights.values())
    name = 'layer1.1.conv1.weight'
    assert relative_error({name: weights[name]}, model.state_dict()) < 0.8
