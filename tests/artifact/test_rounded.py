"""Artifacts whose weights are rounded: alone, or beside what a predictor generates."""
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from conftest import RESNET20, few_or_all, fit_quickly
from PIL import Image
from safetensors.torch import load_file, save

from timm_sbs.artifact.card import artifact_card
from timm_sbs.artifact.describe import describe_artifact
from timm_sbs.artifact.folder import artifact_ledger, load_artifact, read_config, save_artifact
from timm_sbs.artifact.quantize import quantize_artifact
from timm_sbs.codec.quantization import step_sizes
from timm_sbs.common.config import OTHERS, SelectionRule
from timm_sbs.common.errors import ArtifactError, ConfigError, SbsError
from timm_sbs.plots.plot import plot
from timm_sbs.training.design.sizing import design, start_artifact

ROUNDING = SelectionRule('rounding')


@pytest.fixture(scope='module')
def rounded(resnet20):
    """All weights of the ResNet-20, to be rounded to three bits."""
    return start_artifact(design(resnet20, rule=ROUNDING, bits=3.), (), resnet20, seed=0)


@pytest.fixture()
def folder(rounded, tmp_path):
    save_artifact(tmp_path / 'rounded', rounded)
    return tmp_path / 'rounded'


@pytest.fixture(scope='module')
def mixed(resnet20):
    """Small weights rounded beside a predictor, one of them kept."""
    return fit_quickly(resnet20, bits=5., rule=SelectionRule(min_weights=9216, keep=('linear.weight',)))


def rewritten(folder, change):
    """Change tensors and settings as somebody would who writes files of his own: with a checksum that is right."""
    tensors, root = load_file(folder / 'model.safetensors'), json.loads((folder / 'config.json').read_text())
    change(tensors, root['sbs'])
    data = save(tensors)
    (folder / 'model.safetensors').write_bytes(data)
    root['sbs']['weights_sha256'] = hashlib.sha256(data).hexdigest()
    (folder / 'config.json').write_text(json.dumps(root))


def test_weights_are_read_as_they_were_rounded(rounded, folder, resnet20):
    loaded, original = load_artifact(folder), resnet20.state_dict()
    assert not loaded.generator.names and list(loaded.rounded) == list(rounded.rounded) and len(loaded.rounded) == 20
    for name, tensor in loaded.rounded.items():
        step = step_sizes(loaded.steps[f'rounded.{name}'])
        assert torch.equal(tensor, (original[name] / step).round() * step), name
    stored = rounded.stored_weights()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.rounded.items())
    state = loaded.state_dict()
    assert list(state) == list(original) and all(state[name].shape == original[name].shape for name in state)


def test_timm_creates_the_model_that_was_written(rounded, folder, images):
    model, made = timm.create_model(f'local-dir:{folder}', pretrained=True).eval(), rounded.create_model().eval()
    state = load_artifact(folder).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]) and torch.equal(tensor, made.state_dict()[name]), name
    original = timm.create_model('resnet20_cifar10', checkpoint_path=RESNET20).eval()
    with torch.no_grad():
        same = (model(images[0][:100]).argmax(1) == original(images[0][:100]).argmax(1)).float().mean()
    assert same > 0.9


@pytest.mark.parametrize('which', ['rounded', 'mixed'])
def test_what_is_read_is_written_again_byte_by_byte(which, request, tmp_path):
    save_artifact(tmp_path / 'first', request.getfixturevalue(which))
    save_artifact(tmp_path / 'second', load_artifact(tmp_path / 'first'))
    for name in ('config.json', 'model.safetensors'):
        assert (tmp_path / 'first' / name).read_bytes() == (tmp_path / 'second' / name).read_bytes()


@pytest.mark.parametrize('which', ['rounded', 'mixed'])
def test_rounding_what_is_rounded_changes_nothing(which, request):
    artifact = request.getfixturevalue(which).with_fixed_steps()
    once, twice = artifact.as_stored(), artifact.as_stored().as_stored()
    assert all(torch.equal(tensor, twice.rounded[name]) for name, tensor in once.rounded.items())
    weights = zip(once.generator.predictor.named_parameters(), twice.generator.predictor.parameters())
    assert all(torch.equal(a, b) for (name, a), b in weights if name.endswith('.weight'))


def test_all_weights_need_no_names(rounded, resnet20, tmp_path):
    """Nor do those that are not generated; some have to be named."""
    assert rounded.config.rounded == (OTHERS,)
    rule = SelectionRule('rounding', keep=('linear.*',))
    beside = start_artifact(design(resnet20, rule=rule, bits=3.), (), resnet20, seed=0)
    assert len(beside.config.rounded) == 19 and 'linear.weight' in beside.kept
    all_others = fit_quickly(resnet20, steps=1, bits=5.)
    assert all_others.config.rounded == (OTHERS,) and list(all_others.rounded) == ['conv1.weight', 'linear.weight']
    for index, artifact in enumerate((rounded, beside, all_others)):
        save_artifact(tmp_path / str(index), artifact)
        loaded = load_artifact(tmp_path / str(index))
        assert loaded.config.rounded == artifact.config.rounded and list(loaded.rounded) == list(artifact.rounded)
        assert list(loaded.kept) == list(artifact.kept)


@pytest.mark.parametrize('name', ['layer2.0.conv2.weight', 'layer3.2.conv1.weight'])
def test_a_weight_that_is_generated_and_rounded_is_refused(mixed, tmp_path, name):
    save_artifact(tmp_path, mixed)
    with pytest.raises(SbsError, match=f"'{name}' is generated and rounded, but a weight can be only one of these"):
        rewritten(tmp_path, lambda tensors, config: config['rounded'].append(name))
        load_artifact(tmp_path)
    with pytest.raises(ConfigError, match='is generated and rounded'):
        save_artifact(tmp_path / 'out', dataclasses.replace(
            mixed, rounded={**mixed.rounded, name: mixed.weights()[name]}))
    assert not (tmp_path / 'out').exists()


def test_floats_of_rounded_weights(rounded, tmp_path):
    """An artifact that is not quantized holds them as they are."""
    save_artifact(tmp_path, rounded.quantized(None))
    loaded = load_artifact(tmp_path)
    assert loaded.steps == rounded.steps and loaded.config.rounded == (OTHERS,)
    again = loaded.quantized(rounded.storage.quantization)
    assert torch.equal(again.stored_weights()['conv1.weight'], rounded.stored_weights()['conv1.weight'])
    assert all(torch.equal(tensor, rounded.rounded[name]) for name, tensor in loaded.rounded.items())


@few_or_all(30, 1000)
def test_damaged_integers_are_refused_or_give_a_complete_model(folder, described_once, count):
    """Under a right checksum, at any place, and cut off at any length."""
    data = load_file(folder / 'model.safetensors')['rounded'].clone()  # for the file is written anew
    shapes = {name: tensor.shape for name, tensor in load_artifact(folder).rounded.items()}
    rng, refused = np.random.default_rng(0), 0
    for trial in range(count):
        damaged = data.clone()
        place = int(rng.integers(60 if trial % 3 == 0 else len(data)))  # a third of them where the steps are
        damaged[place] ^= int(rng.integers(1, 256))
        if trial % 2:
            damaged = damaged[:int(rng.integers(len(data)))]
        rewritten(folder, lambda tensors, config, damaged=damaged: tensors.update(rounded=damaged))
        try:
            loaded = load_artifact(folder)
        except ArtifactError:
            refused += 1
            continue
        assert {name: tensor.shape for name, tensor in loaded.rounded.items()} == shapes
        assert all(tensor.isfinite().all() for tensor in loaded.rounded.values())
    assert refused >= count / 2  # all that are too short, at the least


@pytest.mark.parametrize('change', [
    lambda tensors, config: tensors.pop('rounded'),
    lambda tensors, config: tensors.update(rounded=torch.zeros(0, dtype=torch.uint8)),
    lambda tensors, config: tensors.update(rounded=torch.full((50_000,), 255, dtype=torch.uint8)),
    lambda tensors, config: tensors.update(rounded=tensors['rounded'].float()),
    lambda tensors, config: tensors.update(rounded=torch.cat([tensors['rounded']] * 2)),
    lambda tensors, config: tensors.update(rounded=torch.zeros(4_000_000, dtype=torch.uint8)),
    lambda tensors, config: config.update(rounded=['conv1.weight']),
    lambda tensors, config: config.update(rounded=[]),
    lambda tensors, config: config.update(rounded=['*', 'bn1.weight']),
    lambda tensors, config: config.update(rounded=['nothing.weight']),
    lambda tensors, config: config.update(rounded=['conv1.weight', 'conv1.weight']),
    lambda tensors, config: config.update(rounded=['**']),
    lambda tensors, config: config.update(generated=['layer1.0.conv1.weight']),
    lambda tensors, config: config.update(generated=['conv1.weight'], rounded=['conv1.weight']),
    lambda tensors, config: config.pop('quantization'),
    lambda tensors, config: config.update(quantization={'layer_bits': [4.] * 5, 'kept_bits': 30}),
])
def test_what_does_not_belong_together_is_refused(folder, change):
    rewritten(folder, change)
    with pytest.raises(SbsError) as error:
        load_artifact(folder)
    assert '\n' not in str(error.value)


def test_values_that_cannot_be_stored_are_not_written(rounded, tmp_path):
    name = 'linear.weight'
    with pytest.raises(ArtifactError, match=f"'rounded.{name}' holds values that are not finite.*Did training diverge"):
        save_artifact(tmp_path, dataclasses.replace(
            rounded, rounded={**rounded.rounded, name: torch.full_like(rounded.rounded[name], float('nan'))}))
    assert not any(tmp_path.iterdir())


def test_nothing_tells_of_a_predictor_where_there_is_none(rounded, folder, tmp_path):
    config = read_config(folder)[0]
    assert config.ledger.predictor == config.ledger.ordering == config.ledger.predictor_parameters == 0
    assert config.ledger.rounded > 0.9 * config.ledger.file and 'rounded' in config.ledger.parts
    text, card = describe_artifact(folder), artifact_card(folder, 'user/any')
    assert 'rounded    all weights\n' in text and 'storage    integers, kept tensors of 8 bits' in text
    assert '- rounded: all weights\n' in card and 'rounded to small integers' in card
    for told in (text, card):
        assert f'{config.ledger.rounded:,}' in told
        for word in ('predictor', 'generat', 'ordering', 'widths', 'SBS', 'perceptron'):
            assert word not in told, word
    for kind in ('ledger', 'kernels'):
        assert plot(folder, tmp_path / f'{kind}.png', kind, original=RESNET20) == kind
        assert Image.open(tmp_path / f'{kind}.png').size


def test_weights_beside_a_predictor_are_told_too(mixed, tmp_path):
    save_artifact(tmp_path / 'mixed', mixed)
    text, card = describe_artifact(tmp_path / 'mixed'), artifact_card(tmp_path / 'mixed', 'user/any')
    for told in (text, card):
        assert f'{len(mixed.rounded)} weights' in told and 'predictor' in told
    assert f'generated  {len(mixed.config.generated)} weights' in text
    for layer in ('layer1.0.conv1.weight', 'layer3.0.conv2.weight'):
        assert plot(tmp_path / 'mixed', tmp_path / 'a.png', 'kernels', original=RESNET20, layer=layer) == 'kernels'


def test_only_a_predictors_bits_can_be_chosen_later(folder, tmp_path):
    with pytest.raises(ConfigError, match='has no predictor.*timm-sbs train --bytes'):
        quantize_artifact(folder, tmp_path / 'copy', bits=3)
    assert not (tmp_path / 'copy').exists()


def test_the_ledger_is_that_of_the_files(rounded, folder):
    assert artifact_ledger(rounded)['total'] == sum(path.stat().st_size for path in folder.iterdir())
