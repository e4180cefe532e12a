"""Artifacts that somebody made to do harm, or that were damaged: each is refused, at once, without memory, and with one
kind of error, or is a complete artifact."""
import copy
import json
import pickle
import resource
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from conftest import FUZZ, ROUNDED, SHIPPED, few_or_all
from hypothesis import given, settings
from hypothesis import strategies as st
from limited import limited
from mutations import edit, paths_in, put, seal
from torch.nn.modules.module import register_module_module_registration_hook

from timm_sbs.artifact.folder import load_artifact, shipped_folder
from timm_sbs.common.config import FORMAT_VERSION
from timm_sbs.common.errors import SbsError
from timm_sbs.plots.plot import draw_ledger
from timm_sbs.predictor import base_model

MEGABYTES = 200


@contextmanager
def few_modules():
    """At most as many modules are built as a base model may have, and some that are in the making when it stops."""
    count = 0

    def registered(*args):
        nonlocal count
        count += 1

    handle = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()
    assert count <= base_model.MAX_MODULES + 10


def at(*keys):
    """Sets a value somewhere in config.json: at('sbs', 'base')('resnet18')(root)."""
    return lambda value: lambda root: put(root, keys, value)


def vit(args):
    """Another network, with these arguments."""
    def change(root):
        root['sbs']['base'], root['model_args'] = 'vit_tiny_patch16_224', args
    return change


@pytest.mark.parametrize('change', [
    at('sbs', 'predictor', 'width')(1 << 20),  # 10^12 parameters
    at('sbs', 'predictor', 'activation')('os.system'),
    at('sbs', 'encoding', 'num_frequencies')(65536),
    at('sbs', 'rounded')(['layer1.0.conv1.weight']),
    at('sbs', 'quantization')({'layer_bits': [2.0] * 100_000}),
    at('sbs', 'base')('vgg19'),
    at('sbs', 'base')('../../etc/passwd'),
    at('sbs', 'base')('hf-hub:user/name'),
    at('sbs', 'base')('resnet20_cifar10.` | <img src=x onerror=alert(1)>'),  # a tag, of which timm takes any
    at('architecture')('resnet18'),
    at('sbs', 'base')(SHIPPED),
    at('model_args')({'checkpoint_path': '/etc/passwd'}),
    at('model_args')({'pretrained': True}),
    at('model_args')({'norm_layer': {'eval': '1'}}),
    vit({'depth': 10 ** 12}),
    vit({'depth': 1 << 16}),
    vit({'embed_dim': 10 ** 9}),
    at('sbs', 'generated')(['../secret.weight']),
    at('sbs', 'generated')(['bn1.weight']),
    at('sbs', 'generated')([f'{i}' for i in range(100_000)]),
    at('sbs', 'rounded')(['conv1.weight']),
    at('pretrained_cfg', 'num_classes')(10 ** 12),
    at('pretrained_cfg', 'input_size')([10 ** 9, 32, 32]),
    at('pretrained_cfg')([]),
    at('sbs', 'format_version')(10 ** 30),
    at('sbs', 'digest')('../../x'),
])
def test_settings_that_would_do_harm(small_folder, change):
    load_artifact(small_folder)
    edit(small_folder, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SbsError), few_modules():
        load_artifact(small_folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * MEGABYTES


@pytest.mark.parametrize('field, value', [
    ('first_conv', 65), ('first_conv', ['no_such_module']), ('classifier', 1), ('label_offset', 1), ('mean', None),
    ('fixed_input_size', 'x'), ('num_classes', 1 << 20), ('num_classes', (1 << 16) + 1)])
def test_descriptions_that_would_do_harm(small_folder, field, value):
    """Every way of loading refuses them, with one kind of error."""
    edit(small_folder, lambda root: root['pretrained_cfg'].update({field: value}))
    name = f'local-dir:{small_folder}'
    for call in (lambda: load_artifact(small_folder), lambda: timm.create_model(name, pretrained=True),
                 lambda: timm.create_model(name), lambda: timm.create_model(name, pretrained=True, in_chans=1)):
        with pytest.raises(SbsError):
            call()


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits need fork and /proc')
@pytest.mark.parametrize('base, input_size, classes', [
    ('vit_base_patch16_224', [3, 2048, 2048], 0), ('vit_tiny_patch16_224', [3, 32_000, 32_000], 0),
    ('swin_tiny_patch4_window7_224', [3, 2048, 2048], 1 << 16), ('resnet18', [3, 32, 32], 1 << 16)])
def test_a_small_file_asks_for_little(tmp_path, base, input_size, classes):
    """Of a few hundred bytes, with a network that would take gigabytes."""
    cfg = dict(input_size=input_size, num_classes=classes, fixed_input_size=True)
    write(tmp_path, safetensors.torch.save({'kept': torch.zeros(500, dtype=torch.uint8)}), {
        'architecture': 'sbs', 'num_classes': classes, 'pretrained_cfg': cfg, 'model_args': {}, 'sbs': {
            'format_version': FORMAT_VERSION, 'base': base, 'rounded': ['*'], 'quantization': {}}})

    def refused():
        for call in (lambda: load_artifact(tmp_path), lambda: timm.create_model(f'local-dir:{tmp_path}')):
            with suppress(SbsError):
                call()
                return False
        return True

    outcome = limited(refused)
    assert outcome.result and outcome.memory < MEGABYTES << 20 and outcome.seconds < 10, outcome


@pytest.mark.parametrize('args', [
    {'checkpoint_path': '/etc/passwd'}, {'no_such_argument': 1}, {'base': 'resnet20_cifar10'}, {'name': 'sbs'},
    {'device': 'meta'}, {'depth': 1 << 16}, {'layers': [1 << 16] * 3}])
@pytest.mark.parametrize('pretrained', [True, False])
def test_model_args_that_would_do_harm(small_folder, args, pretrained, monkeypatch):
    """timm hands them on as they stand in config.json, so that only the artifact's own are taken."""
    monkeypatch.setattr(base_model, 'MAX_MODULES', 1000)  # fewer than its own, which take long to build
    edit(small_folder, lambda root: root['model_args'].update(args))
    with pytest.raises(SbsError), few_modules():
        timm.create_model(f'local-dir:{small_folder}', pretrained=pretrained)


@pytest.mark.parametrize('change', [
    lambda tensors, config: tensors.pop('rounded'),
    lambda tensors, config: tensors.update(rounded=torch.zeros(0, dtype=torch.uint8)),
    lambda tensors, config: tensors.update(rounded=torch.full((50_000,), 255, dtype=torch.uint8)),
    lambda tensors, config: tensors.update(rounded=torch.cat([tensors['rounded']] * 2)),
    lambda tensors, config: tensors.update(rounded=torch.zeros(4_000_000, dtype=torch.uint8)),
    lambda tensors, config: config.update(rounded=['*', 'bn1.weight']),
    lambda tensors, config: config.update(rounded=['conv1.weight', 'conv1.weight']),
    lambda tensors, config: config.update(generated=['conv1.weight'], rounded=['conv1.weight']),
    lambda tensors, config: config.update(generated=['layer1.0.conv1.weight']),
    lambda tensors, config: config.pop('quantization'),
    lambda tensors, config: config.update(quantization={'layer_bits': [4.] * 5, 'kept_bits': 30})])
def test_rounded_weights_that_do_not_belong_together(tmp_path, change):
    tensors = safetensors.torch.load_file(shipped_folder(ROUNDED[0]) / 'model.safetensors')
    root = json.loads((shipped_folder(ROUNDED[0]) / 'config.json').read_text())
    change(tensors, root['sbs'])
    write(tmp_path, safetensors.torch.save(tensors), root)
    with pytest.raises(SbsError) as error:
        load_artifact(tmp_path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('first, value', [(0, float('nan')), (1, float('inf'))])
def test_values_that_are_not_finite_under_a_right_digest(small_folder, described_once, first, value):
    """Of each four tensors, one has the value."""
    path = small_folder / 'model.safetensors'
    tensors, root = safetensors.torch.load_file(path), json.loads((small_folder / 'config.json').read_text())
    for name in [name for name, tensor in tensors.items() if tensor.is_floating_point()][first::4]:
        changed = {**tensors, name: tensors[name].clone()}
        changed[name].view(-1)[0] = value
        write(small_folder, safetensors.torch.save(changed), root)
        with pytest.raises(SbsError, match='finite'):
            load_artifact(small_folder)


class Harm:
    def __reduce__(self):
        return Path.touch, (Path('harmed'),)


def test_no_pickle_is_opened(small_folder, tmp_path, monkeypatch):
    """Neither instead of the tensors nor beside them."""
    monkeypatch.chdir(tmp_path)
    harm = pickle.dumps(Harm())
    for name in ('pytorch_model.bin', 'model.pth', 'model.pkl', 'config.pkl'):
        (small_folder / name).write_bytes(harm)
    load_artifact(small_folder)
    (small_folder / 'model.safetensors').write_bytes(harm)
    with pytest.raises(SbsError):
        load_artifact(small_folder)
    torch.save({'x': torch.zeros(1)}, small_folder / 'model.safetensors')
    with pytest.raises(SbsError):
        load_artifact(small_folder)
    assert not (tmp_path / 'harmed').exists()


SOURCE = shipped_folder(SHIPPED)
ROOT, DATA = json.loads((SOURCE / 'config.json').read_text()), (SOURCE / 'model.safetensors').read_bytes()
PATHS = [path for path in paths_in(ROOT) if path]
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1, 2, 7, 1e30, 1 << 62, 1 << 70, True, False, None]))
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=20), st.sampled_from(['resnet18', 'layer', 'sine', 'float32', 'a.weight'])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=6)


def write(folder, data, root):
    """An artifact under a right digest, as somebody would write it who makes files of his own."""
    (folder / 'model.safetensors').write_bytes(data)
    root = copy.deepcopy(root)
    seal(root, data)
    (folder / 'config.json').write_text(json.dumps(root))


@pytest.fixture()
def folder(tmp_path, described_once):
    write(tmp_path, DATA, ROOT)
    return tmp_path


def write_changed(folder, changes):
    """config.json with other values at some paths, or, for an ellipsis, without them."""
    root = copy.deepcopy(ROOT)
    for path, value in changes:
        holder = root
        with suppress(KeyError, IndexError, TypeError):  # an earlier change has taken it away
            for key in path[:-1]:
                holder = holder[key]
            if value is ...:
                del holder[path[-1]]
            else:
                holder[path[-1]] = value
    if all(path != ('sbs', 'digest') for path, _ in changes):
        seal(root, DATA)
    (folder / 'config.json').write_text(json.dumps(root))


def changes_of(paths):
    return st.lists(st.tuples(paths, st.one_of(VALUES, st.just(...))), min_size=1, max_size=3)


HEADER_SIZE = 8 + int.from_bytes(DATA[:8], 'little')


@few_or_all(100, 10_000)
def test_every_corruption_of_a_byte_is_refused(folder, count):
    """In the header, in sizes, in tables and in coded integers alike."""
    rng = np.random.default_rng(0)
    for trial in range(count):
        damaged = bytearray(DATA)
        damaged[int(rng.integers(HEADER_SIZE if trial % 4 == 0 else len(DATA)))] ^= int(rng.integers(1, 256))
        (folder / 'model.safetensors').write_bytes(damaged)
        with pytest.raises(SbsError):
            load_artifact(folder)


@few_or_all(60, 2000)
def test_corruptions_under_a_right_digest_are_refused_or_give_a_complete_model(tmp_path, described_once, count):
    """At any position of the rounded weights and the stored tensors, or cut off at any length."""
    source = shipped_folder(ROUNDED[0])
    root = json.loads((source / 'config.json').read_text())
    tensors, whole = safetensors.torch.load_file(source / 'model.safetensors'), load_artifact(source).state_dict()
    rng, refused = np.random.default_rng(0), 0
    for trial in range(count):
        name = ('rounded', 'kept')[trial % 2]
        damaged = tensors[name].clone()
        damaged[int(rng.integers(60 if trial % 3 == 0 else len(damaged)))] ^= int(rng.integers(1, 256))
        if trial % 4 < 2:
            damaged = damaged[:int(rng.integers(len(damaged)))]
        write(tmp_path, safetensors.torch.save({**tensors, name: damaged}), root)
        try:
            found = load_artifact(tmp_path).state_dict()
        except SbsError:
            refused += 1
            continue
        assert all(tensor.shape == whole[key].shape and tensor.isfinite().all() for key, tensor in found.items())
    assert refused >= count / 2  # all that are too short, at the least


TOLD = [path for path in PATHS if path[:2] in (('sbs', 'ledger'), ('sbs', 'results'))] + [('pretrained_cfg', 'license')]
NEW = st.sampled_from([('sbs', 'results', name) for name in (
    'started_from', 'data_free', 'dataset', 'unlabelled', 'measured_on', 'agreement', 'images', 'surprise')])


@few_or_all(60, 600)
def test_what_is_told_of_an_artifact_is_harmless(folder, count):
    """timm-sbs info, the card and the picture of the ledger tell what they can of any information."""
    @settings(FUZZ, max_examples=count)
    @given(changes_of(st.sampled_from(TOLD) | NEW))
    def check(changes):
        write_changed(folder, changes)
        for tell in (lambda folder: load_artifact(folder).describe(),
                     lambda folder: load_artifact(folder).card('user/any'), draw_ledger):
            try:
                told = tell(folder)
            except SbsError as e:
                assert '\n' not in str(e)
                assert 'as JSON' in str(e) or any(
                    path[-1] == 'license' or path[:2] == ('sbs', 'ledger') for path, _ in changes)
                continue
            if isinstance(told, str):
                assert told.encode() and '\x1b' not in told

    check()
