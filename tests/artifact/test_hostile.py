"""Artifacts that somebody made to do harm, or that were damaged: each is refused, at once, without memory, and with one
kind of error, or is a complete artifact."""
import copy
import hashlib
import json
import pickle
import resource
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
from torch.nn.modules.module import register_module_module_registration_hook

from timm_sbs.artifact.folder import load_artifact, shipped_folder
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


def rewrite(folder, change):
    path = folder / 'config.json'
    root = json.loads(path.read_text())
    change(root)
    path.write_text(json.dumps(root))


def at(*keys):
    """Sets a value somewhere in config.json: at('sbs', 'base')('resnet18')(root)."""
    def with_value(value):
        def change(root):
            for key in keys[:-1]:
                root = root.setdefault(key, {})
            root[keys[-1]] = value
        return change
    return with_value


@pytest.mark.parametrize('change', [
    at('sbs', 'predictor', 'width')(1 << 20),  # 10^12 parameters
    at('sbs', 'predictor', 'activation')('os.system'),
    at('sbs', 'encoding', 'num_frequencies')(65536),
    at('sbs', 'rounded')(['layer1.0.conv1.weight']),
    at('sbs', 'quantization')({'layer_bits': [2.0] * 100_000}),
    at('sbs', 'base')('vgg19'),
    at('sbs', 'base')('../../etc/passwd'),
    at('sbs', 'base')('hf-hub:user/name'),
    at('sbs', 'base')(SHIPPED),
    at('sbs', 'base_args')({'checkpoint_path': '/etc/passwd'}),
    at('sbs', 'base_args')({'pretrained': True}),
    at('sbs', 'base_args')({'norm_layer': {'eval': '1'}}),
    lambda root: root['sbs'].update(base='vit_tiny_patch16_224', base_args={'depth': 10 ** 12}),
    lambda root: root['sbs'].update(base='vit_tiny_patch16_224', base_args={'depth': 1 << 16}),
    lambda root: root['sbs'].update(base='vit_tiny_patch16_224', base_args={'embed_dim': 10 ** 9}),
    at('sbs', 'generated')(['../secret.weight']),
    at('sbs', 'generated')(['bn1.weight']),
    at('sbs', 'generated')([f'{i}' for i in range(100_000)]),
    at('sbs', 'rounded')(['conv1.weight']),
    at('pretrained_cfg', 'num_classes')(10 ** 12),
    at('pretrained_cfg', 'input_size')([10 ** 9, 32, 32]),
    at('pretrained_cfg')([]),
    at('sbs', 'format_version')(10 ** 30),
    at('sbs', 'weights_sha256')('../../x'),
])
def test_settings_that_would_do_harm(small_folder, change):
    load_artifact(small_folder)
    rewrite(small_folder, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SbsError), few_modules():
        load_artifact(small_folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * MEGABYTES


@pytest.mark.parametrize('args', [
    {'checkpoint_path': '/etc/passwd'}, {'no_such_argument': 1}, {'base': 'resnet20_cifar10'}, {'name': 'sbs'},
    {'device': 'meta'}, {'depth': 1 << 16}, {'layers': [1 << 16] * 3}])
@pytest.mark.parametrize('pretrained', [True, False])
def test_model_args_that_would_do_harm(small_folder, args, pretrained, monkeypatch):
    """timm hands them on as they stand in config.json, so that only the artifact's own are taken."""
    monkeypatch.setattr(base_model, 'MAX_MODULES', 1000)  # fewer than its own, which take long to build
    rewrite(small_folder, lambda root: root['model_args'].update(args))
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
def test_values_that_are_not_finite_under_a_right_checksum(small_folder, described_once, first, value):
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


def paths_in(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


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
    """An artifact under a right checksum, as somebody would write it who makes files of his own."""
    (folder / 'model.safetensors').write_bytes(data)
    root = copy.deepcopy(root)
    root['sbs']['weights_sha256'] = hashlib.sha256(data).hexdigest()
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
    (folder / 'config.json').write_text(json.dumps(root))


def changes_of(paths):
    return st.lists(st.tuples(paths, st.one_of(VALUES, st.just(...))), min_size=1, max_size=3)


@few_or_all(100, 6000)
def test_any_change_of_the_settings_is_harmless(folder, count):
    """A field has another value, or is missing: refused with an SbsError, or loaded all the same."""
    @settings(FUZZ, max_examples=count)
    @given(changes_of(st.sampled_from(PATHS)))
    def check(changes):
        write_changed(folder, changes)
        with suppress(SbsError):
            load_artifact(folder)

    check()


HEADER_SIZE = 8 + int.from_bytes(DATA[:8], 'little')
HEADER = json.loads(DATA[8:HEADER_SIZE])


@few_or_all(60, 4000)
def test_any_header_of_the_tensors_is_harmless(folder, count):
    @settings(FUZZ, max_examples=count)
    @given(st.sampled_from([path for path in paths_in(HEADER) if path]), VALUES)
    def check(path, value):
        header = copy.deepcopy(HEADER)
        holder = header
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        text = json.dumps(header).encode()
        write(folder, len(text).to_bytes(8, 'little') + text + DATA[HEADER_SIZE:], ROOT)
        with suppress(SbsError):
            load_artifact(folder)

    check()


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
def test_corruptions_under_a_right_checksum_are_refused_or_give_a_complete_model(tmp_path, described_once, count):
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
