"""Whatever fails while an artifact is saved, a reader finds the old one or the new one, whole."""
import dataclasses
import os
import shutil
import signal
import subprocess
import sys

import pytest

from timm_sbs.artifact import files as files_module
from timm_sbs.artifact import swap
from timm_sbs.artifact.files import ArtifactFiles
from timm_sbs.artifact.folder import load_artifact, read_config, record_results, save_artifact
from timm_sbs.common.errors import ArtifactError
from timm_sbs.common.files import file_sha256

CALLS = ('replace', 'rename', 'mkdir', 'fsync')
OTHERS = {'args.yaml': b'model: resnet18', 'summary.csv': b'phase', 'checkpoints/checkpoint-1/state': b'1',
          'last/config.json': b'{}'}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.fixture()
def pair(small_artifact):
    """Two artifacts of one network, of which the first has a licence."""
    kept = {name: tensor + 1 for name, tensor in small_artifact.kept.items()}
    old = dataclasses.replace(small_artifact, license_text='Ours.', results={'seed': 1})
    return old, dataclasses.replace(small_artifact, kept=kept, results={'seed': 2})


@pytest.fixture()
def output(pair, tmp_path):
    """The output of a training run, with an artifact in it."""
    folder = tmp_path / 'out'
    save_artifact(folder, pair[0])
    for name, data in OTHERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def failing(monkeypatch, call, number, for_ever=False):
    """Make one call of an os function fail, or all from one on. Returns a list that counts the calls."""
    real, calls = getattr(os, call), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == number or (for_ever and len(calls) > number):
            raise OSError(28, 'No space left on device')
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, fail)
    return calls


def number_of_calls(call, save):
    with pytest.MonkeyPatch.context() as patch:
        calls = failing(patch, call, 0)
        save()
    return len(calls)


@pytest.mark.parametrize('call', CALLS)
def test_any_single_failure_leaves_all_old_files_and_nothing_else(pair, output, tmp_path, call):
    copy = shutil.copytree(output, tmp_path / 'copy')
    count = number_of_calls(call, lambda: save_artifact(copy, pair[1]))
    before, names = contents(output), everything(output)
    assert count >= 1
    for number in range(1, count + 1):
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, call, number)
            with pytest.raises(ArtifactError, match='No space left'):
                save_artifact(output, pair[1])
        assert contents(output) == before and everything(output) == names, number
    save_artifact(output, pair[1])
    after = contents(output)
    assert {name: after[name] for name in OTHERS} == OTHERS
    assert set(after) == {*OTHERS, 'config.json', 'model.safetensors'}  # the licence was the old one's
    assert load_artifact(output).results.seed == 2


@pytest.mark.parametrize('call', CALLS)
def test_what_fails_for_ever_leaves_one_artifact_for_readers_and_the_next_save_completes_it(
        pair, output, tmp_path, call):
    copy = shutil.copytree(output, tmp_path / 'copy')
    count = number_of_calls(call, lambda: save_artifact(copy, pair[1]))
    for number in range(1, count + 1):
        folder = shutil.copytree(output, tmp_path / str(number))
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, call, number, for_ever=True)
            with pytest.raises((ArtifactError, OSError)):
                save_artifact(folder, pair[1])
        found = load_artifact(folder)
        assert (found.results.seed, found.license_text) in ((1, 'Ours.'), (2, None)), number
        record_results(folder, {'top1': 50.})
        assert read_config(folder)[0].results == {'seed': found.results.seed, 'top1': 50.}
        assert load_artifact(folder).license_text == found.license_text
        assert not [name for name in everything(folder) if name.startswith('.')]


def test_a_folder_that_can_not_be_removed_brings_the_old_files_back(pair, output):
    before, names = contents(output), everything(output)
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, 'rmdir', 1)
        with pytest.raises(ArtifactError, match='No space left'):
            save_artifact(output, pair[1])
    assert contents(output) == before and everything(output) == names


@pytest.mark.parametrize('call', ['rename', 'mkdir', 'fsync'])
def test_a_new_folder_appears_as_a_whole(pair, tmp_path, call):
    target = tmp_path / 'a' / 'b'
    count = number_of_calls(call, lambda: save_artifact(tmp_path / 'other', pair[0]))
    for number in range(1, count + 1):
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, call, number)
            with pytest.raises(ArtifactError, match='No space left'):
                save_artifact(target, pair[0])
        assert [path.name for path in tmp_path.iterdir()] == ['other']
    save_artifact(target, pair[0])
    assert everything(target) == ['LICENSE', 'config.json', 'model.safetensors']
    assert contents(target) == contents(tmp_path / 'other')


@pytest.mark.parametrize('call', CALLS)
def test_results_are_recorded_or_not(output, call):
    before, names = contents(output), everything(output)
    save = shutil.copytree(output, output.with_name('copy'))
    for number in range(1, number_of_calls(call, lambda: record_results(save, {'top1': 5.})) + 1):
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, call, number)
            with pytest.raises(ArtifactError, match='No space left'):
                record_results(output, {'top1': 5.})
        assert contents(output) == before and everything(output) == names


KILLED = '''
import importlib.util, os, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location('swap', sys.argv[3])  # nothing else is imported: that would take seconds
swap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(swap)
real, left = {call}, int(sys.argv[2])
def until(*args, **kwargs):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    return real(*args, **kwargs)
os.{name} = until
swap.swap_files(Path(sys.argv[1]), {{'a': b'new', 'b': b'newer', 'c': None}})
'''


@pytest.mark.parametrize('name, number', [('replace', n) for n in range(5)] + [
    ('rename', 0), ('mkdir', 0), ('mkdir', 1), ('rmdir', 0), ('fsync', 1), ('fsync', 3)])
def test_a_kill_at_any_rename(tmp_path, name, number):
    folder = tmp_path / 'folder'
    folder.mkdir()
    for file in 'abcd':
        (folder / file).write_bytes(b'old')
    code = KILLED.format(call=f'os.{name}', name=name)
    done = subprocess.run([sys.executable, '-c', code, str(folder), str(number), swap.__file__])
    assert done.returncode == -signal.SIGKILL

    def read(file):
        path = swap.current(folder, file)
        return path.read_bytes() if path.is_file() else b''

    found = [read(file) for file in 'abc']
    assert found in ([b'old'] * 3, [b'new', b'newer', b'']) and read('d') == b'old'
    swap.settle(folder)
    assert [read(file) for file in 'abc'] == found and read('d') == b'old'
    assert not [path for path in folder.iterdir() if path.name.startswith('.')]


@pytest.mark.parametrize('moment', ['before the checksum', 'after the checksum'])
def test_a_save_while_somebody_reads_gives_the_new_artifact(pair, output, monkeypatch, moment):
    saved = []

    def checksum(path):
        found = file_sha256(path) if moment == 'after the checksum' else None
        if not saved:
            saved.append(save_artifact(output, pair[1]))
        return found or file_sha256(path)

    monkeypatch.setattr(files_module, 'file_sha256', checksum)
    artifact = load_artifact(output)
    assert artifact.results.seed == 2 and len(saved) == 1
    assert all((tensor == pair[1].kept[name]).all() for name, tensor in artifact.kept.items())


def test_files_replaced_between_checksum_and_reading_are_noticed(pair, output):
    files = ArtifactFiles.of(output)
    assert files.weights_sha256
    save_artifact(output, pair[1])
    with pytest.raises(ArtifactError):
        load_artifact(files)
    assert load_artifact(output).results.seed == 2
