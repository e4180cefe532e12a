"""Updates: artifacts that hold what differs from another one."""
import copy
import dataclasses
import json
import re
import shutil

import pytest
import timm
import torch
from conftest import SHIPPED, described, fit_quickly

import timm_sbs
from timm_sbs import SbsError
from timm_sbs.common.config import UpdateConfig
from timm_sbs.train import main

ROUND = dict(mixed_precision='no', workers=0, quiet=True)
BYTES = 9_000  # of an update of a ResNet-8; the whole has 21,000
TUNED = 'layer2.0.conv1.weight', 'layer3.0.conv2.weight', 'bn1.weight', 'bn1.bias'


@pytest.fixture(scope='module')
def base(small_model, tmp_path_factory):
    """Folder of a rounded network."""
    folder = tmp_path_factory.mktemp('base')
    timm_sbs.fit(small_model, bytes='21k', output=folder, **ROUND)
    return folder


def tuned_from(base, names=TUNED, **kwargs):
    """The network of an artifact, of which some tensors have changed a little."""
    model, generator = timm_sbs.load(base).create_model(**kwargs).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in names:
            tensor = model.get_parameter(name)
            tensor += 0.3 * tensor.std() * torch.randn(tensor.shape, generator=generator)
    return model


@pytest.fixture(scope='module')
def update(base, tmp_path_factory):
    """Folder of an update, with its base beside it."""
    folder = tmp_path_factory.mktemp('update')
    timm_sbs.fit(tuned_from(base), base=str(base), bytes=BYTES, output=folder, **ROUND)
    shutil.copytree(base, folder / 'base')
    return folder


def files_of(folder):
    return [(folder / name).read_bytes() for name in ('config.json', 'model.safetensors')]


def error(state, expected):
    return max(float((state[name] - expected[name]).square().mean() / expected[name].square().mean().clamp(min=1e-9))
               for name in expected if expected[name].is_floating_point())


def test_an_update_is_added_to_its_base(base, update):
    old, new, expected = (timm_sbs.load(base).state_dict(), timm_sbs.load(update).state_dict(),
                          tuned_from(base).state_dict())
    assert sum(map(len, files_of(update))) <= BYTES
    for name, tensor in new.items():
        assert torch.equal(tensor, old[name]) != (name in TUNED), name
    assert error(new, expected) < 0.3 * error(old, expected)
    model = timm.create_model(f'local-dir:{update}', pretrained=True)
    assert all(torch.equal(tensor, new[name]) for name, tensor in model.state_dict().items())
    assert timm.create_model(f'local-dir:{update}').num_classes == model.num_classes


def test_what_did_not_change_takes_no_bytes(base):
    artifact = timm_sbs.fit(tuned_from(base, ['bn1.weight']), base=str(base), bytes=BYTES, **ROUND)
    ledger = artifact.ledger()
    assert ledger['rounded'] == 0 and ledger['kept'] < 40
    nothing = timm_sbs.fit(tuned_from(base, []), base=str(base), bytes=BYTES, **ROUND)
    expected = timm_sbs.load(base).state_dict()
    assert nothing.ledger()['kept'] == 0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in nothing.state_dict().items())


def test_a_loaded_update_is_written_as_it_was(update, tmp_path):
    timm_sbs.load(update).save(tmp_path)
    assert files_of(tmp_path) == files_of(update)


def test_an_update_has_the_licence_of_its_base_where_none_is_named(base, tmp_path):
    licensed = dataclasses.replace(timm_sbs.load(base), license_text='Mine.')
    described(licensed, license='mit').save(tmp_path)
    for named, license, text in ((None, 'mit', 'Mine.'), ('bsd-2-clause', 'bsd-2-clause', None)):
        found = timm_sbs.fit(tuned_from(base), base=str(tmp_path), bytes=BYTES, license=named, **ROUND)
        assert (found.base.pretrained_cfg['license'], found.license_text) == (license, text)


def test_a_dry_run_tells_what_is_unchanged(base, tmp_path, capsys):
    torch.save(tuned_from(base).state_dict(), tmp_path / 'tuned.pt')
    main(['--model', 'resnet8_cifar10', '--initial-checkpoint', str(tmp_path / 'tuned.pt'), '--base', str(base),
          '--bytes', str(BYTES), '--dry-run'])
    text = capsys.readouterr().out
    assert f'unchanged, and taken from {base.name}: 33 tensors' in text and '2 weights rounded' in text
    assert re.search(r'norms, biases and others +32 +values in 2 tensors\n\n', text), text


def test_a_base_is_found_beside_an_update_or_where_the_caller_says(base, update, tmp_path):
    shutil.copytree(update, tmp_path / 'alone', ignore=shutil.ignore_patterns('base'))
    with pytest.raises(SbsError, match='which is not here.*base=FOLDER'):
        timm_sbs.load(tmp_path / 'alone')
    found, expected = timm_sbs.load(tmp_path / 'alone', base=base).state_dict(), timm_sbs.load(update).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(SbsError, match='is no update'):
        timm_sbs.load(base, base=base)


def test_a_base_of_the_package_is_found_by_its_name(tmp_path):
    """Also one whose weights are generated."""
    timm_sbs.fit(tuned_from(SHIPPED, ['layer1.0.conv1.weight']), base=SHIPPED, bytes=9_000, output=tmp_path, **ROUND)
    found, old = timm_sbs.load(tmp_path), timm_sbs.load(SHIPPED).state_dict()
    assert found.config.update.base == SHIPPED and f'update of  {SHIPPED}' in found.describe()
    changed = [name for name, tensor in found.state_dict().items() if not torch.equal(tensor, old[name])]
    assert changed == ['layer1.0.conv1.weight']
    card = found.card('user/tuned')
    assert f'base_model: timm-sbs/{SHIPPED}' in card and 'This is an update of' in card


def test_a_new_classifier_is_stored_whole(base, tmp_path):
    torch.manual_seed(0)
    model = tuned_from(base, ['bn1.weight'], num_classes=3)
    timm_sbs.fit(model, base=str(base), bytes=BYTES, output=tmp_path, **ROUND)
    found = timm_sbs.load(tmp_path, base=base).create_model().state_dict()
    assert found['linear.weight'].shape == (3, 64) and error(found, model.state_dict()) < 1e-3


def test_training_changes_what_the_update_stores_alone(base, image_folder):
    tuned = tuned_from(base)
    settings = dict(ROUND, base=str(base), bytes=5_500, images=image_folder / 'train', holdout_images=100,
                    batch_size=20, statistics_images=40, eval_interval=10, rounding_lr=0.05)
    rounded, trained = (timm_sbs.fit(tuned, **settings, distillation_steps=steps) for steps in (0, 20))
    assert trained.ledger()['total'] <= 5_500
    assert trained.results['holdout_divergence'] <= rounded.results['holdout_divergence']
    old = timm_sbs.load(base).state_dict()
    assert all(torch.equal(tensor, old[name]) for name, tensor in trained.state_dict().items() if name not in TUNED)


def test_an_onnx_model_of_an_update_is_whole(update, tmp_path):
    pytest.importorskip('onnxruntime')
    checked = timm_sbs.load(update).export_onnx(tmp_path / 'model.onnx')
    assert checked.difference < 1e-4 and (tmp_path / 'model.onnx').stat().st_size > 4 * 75_000


def test_a_run_that_was_stopped_goes_on(base, image_folder, tmp_path):
    settings = dict(ROUND, base=str(base), bytes=7_000, images=image_folder / 'train', batch_size=20, output=tmp_path,
                    statistics_images=40, distillation_steps=4, eval_interval=2, checkpointing_steps=2)
    timm_sbs.fit(tuned_from(base), **settings)
    before = files_of(tmp_path)
    shutil.rmtree(max((tmp_path / 'checkpoints').glob('checkpoint-*')))  # that of the last step
    timm_sbs.fit(tuned_from(base), **settings, resume='latest')
    assert files_of(tmp_path) == before


def test_another_base_is_refused(base, update, small_model, tmp_path):
    timm_sbs.fit(small_model, bytes='24k', output=tmp_path / 'other', **ROUND)
    with pytest.raises(SbsError, match='holds another artifact or another version'):
        timm_sbs.load(update, base=tmp_path / 'other')
    fit_quickly(timm.create_model('resnet20_cifar10')).save(tmp_path / 'larger')
    with pytest.raises(SbsError, match="is a 'resnet20_cifar10'.*cannot be the base of a 'resnet8_cifar10'"):
        timm_sbs.fit(small_model, base=str(tmp_path / 'larger'), bytes=BYTES, **ROUND)
    with pytest.raises(SbsError, match='is an update.* so it is no base'):
        timm_sbs.fit(small_model, base=str(update), bytes=BYTES, **ROUND)
    with pytest.raises(SbsError, match='add --bytes'):
        timm_sbs.fit(small_model, base=str(base), **ROUND)
    with pytest.raises(SbsError, match='without any of what differs both files take'):
        timm_sbs.fit(tuned_from(base), base=str(base), bytes=1_000, **ROUND)


def test_hostile_bases_are_refused(update, tmp_path):
    """One that names itself, lies elsewhere, or is an update in turn."""
    shutil.copytree(update, tmp_path / 'x', ignore=shutil.ignore_patterns('base'))
    shutil.copytree(update, tmp_path / 'x' / 'base')
    with pytest.raises(SbsError, match='is an update itself'):
        timm_sbs.load(tmp_path / 'x')
    shutil.rmtree(tmp_path / 'x' / 'base')
    config = json.loads((tmp_path / 'x' / 'config.json').read_text())
    for block, says in (
            (dict(base=str(update / 'base')), 'which is not here'), (dict(base='../../etc'), 'which is not here'),
            (dict(base='x' * 5000), 'update.base'), (dict(digest='0' * 63), 'not the digest'),
            (dict(kept='f' * 9000), 'update.kept'), (dict(kept='0x1'), 'update.kept')):
        changed = copy.deepcopy(config)
        changed['sbs']['update'].update(block)
        (tmp_path / 'x' / 'config.json').write_text(json.dumps(changed))
        with pytest.raises(SbsError, match=says):
            timm_sbs.load(tmp_path / 'x')
    with pytest.raises(SbsError, match='beyond the 3'):
        UpdateConfig('a', '0' * 64, kept='8').stored(['a', 'b', 'c'])
