"""config.json and LICENSE, read and written."""
import json
import os
import stat

import pytest
from mutations import edit, put

from timm_sbs.artifact.files import MAX_CONFIG_BYTES, read_config, read_license, write_files
from timm_sbs.common.errors import ArtifactError, ConfigError, SbsError


@pytest.mark.parametrize('text', [
    '', '{', '[]', 'null', '{"architecture": "resnet18"}', '{"sbs": 3}', '[' * 100_000, '{"sbs": NaN}', '\xff', '\x00',
    '{"sbs": {"base": 1e999}}', '{"sbs": ' + '1' * 10_000_000 + '}', ' ' * (MAX_CONFIG_BYTES + 1)])
def test_config_that_is_not_an_artifacts(small_folder, text):
    (small_folder / 'config.json').write_text(text, encoding='latin-1')
    with pytest.raises(ArtifactError, match='config.json'):
        read_config(small_folder)


def test_a_folder_without_one(small_folder):
    (small_folder / 'config.json').unlink()
    with pytest.raises(ArtifactError, match='is not an artifact: config.json not found'):
        read_config(small_folder)


@pytest.mark.parametrize('change, says', [
    (lambda s: s.update(format_version=99, something_new=1), 'format 99.*pip install --upgrade timm_sbs'),
    (lambda s: s.update(format_version=1), 'format 1, .* was never released'),
    (lambda s: s.update(format_version='1'), 'no valid sbs.format_version'),
    (lambda s: s.update(sparsity=1), 'unknown field .sparsity.*pip install --upgrade timm_sbs'),
    (lambda s: s.setdefault('ordering', {}).update(second=1), 'unknown field .second.*pip install --upgrade'),
    (lambda s: s.update(predictor={'width': 'wide'}), 'must be an integer')])
def test_structure_that_is_not_known_or_wrong(small_folder, change, says):
    edit(small_folder, lambda root: change(root['sbs']))
    with pytest.raises(SbsError, match=says):
        read_config(small_folder)


@pytest.mark.parametrize('license', [{'a': 1}, 3, 'two\nlines', '\x1b[2J'])
def test_a_licence_that_cannot_be_shown(small_folder, license):
    edit(small_folder, lambda root: root['pretrained_cfg'].update(license=license))
    with pytest.raises((ArtifactError, ConfigError), match='license'):
        read_config(small_folder)


@pytest.mark.parametrize('path', [
    ('pretrained_cfg', 'label_descriptions'), ('pretrained_cfg', 'surprise'), ('model_args', 'x'), ('sbs', 'results')])
def test_what_is_deep_is_not_read(small_folder, path):
    """Python gives up after a thousand levels, at a depth that depends on who asks."""
    for depth in (40, 700):
        edit(small_folder, lambda root, depth=depth: put(root, path, json.loads('{"a":' * depth + '1' + '}' * depth)))
        with pytest.raises(ArtifactError, match='more than 32 deep'):
            read_config(small_folder)


@pytest.mark.parametrize('results', [{'notes': 'é' * 1_500_000}, {'a': json.loads('[' * 40 + ']' * 40)}])
def test_what_could_not_be_read_again_is_not_written(small_artifact, small_folder, results):
    """Three megabytes of UTF-8 are nine once they are escaped."""
    before = (small_folder / 'config.json').read_bytes()
    with pytest.raises(ConfigError, match='too large or too deep to be read again'):
        small_artifact.with_results(results).save(small_folder)
    assert (small_folder / 'config.json').read_bytes() == before


def test_information_is_never_an_error(small_folder):
    for value in (None, 3, [], {'top1': 'high', 'started_from': 3, '\x1b': {}}):
        edit(small_folder, lambda root, value=value: root['sbs'].update(results=value, ledger=value))
        config, *_ = read_config(small_folder)
        assert config.results == config.ledger == (value if isinstance(value, dict) else {})


def test_licence_texts(tmp_path):
    assert read_license(tmp_path) is None
    (tmp_path / 'LICENSE').write_text('für alle', encoding='utf-8')
    assert read_license(tmp_path) == 'für alle'
    for data in (b'\xff\xfe', b'a' * (2 << 20)):
        (tmp_path / 'LICENSE').write_bytes(data)
        with pytest.raises(ArtifactError, match='LICENSE'):
            read_license(tmp_path)


def test_a_licence_stays_only_if_it_is_written(tmp_path):
    (tmp_path / 'thesis').write_text('mine')
    (tmp_path / 'LICENSE').symlink_to(tmp_path / 'thesis')
    write_files(tmp_path, {'config.json': b'1', 'LICENSE': b'ours'})
    assert (tmp_path / 'thesis').read_text() == 'mine' and read_license(tmp_path) == 'ours'
    write_files(tmp_path, {'config.json': b'2'})
    assert {path.name for path in tmp_path.iterdir()} == {'config.json', 'thesis'}


@pytest.mark.parametrize('fails_at', [1, 2])
def test_a_write_that_fails_leaves_the_old_files(small_folder, tmp_path, monkeypatch, fails_at):
    before, calls = {path.name: path.read_bytes() for path in small_folder.iterdir()}, []

    def full_disk(handle):
        calls.append(handle)
        if len(calls) == fails_at:
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    for folder in (small_folder, tmp_path / 'new' / 'folder'):
        calls.clear()
        with pytest.raises(ArtifactError, match='Cannot write .*No space left'):
            write_files(folder, {'model.safetensors': b'new', 'config.json': b'new'})
    assert {path.name: path.read_bytes() for path in small_folder.iterdir()} == before
    assert not any(path.is_file() for path in (tmp_path / 'new').rglob('*'))
    (tmp_path / 'file').write_text('')
    with pytest.raises(ArtifactError, match='Cannot write'):
        write_files(tmp_path / 'file' / 'out', {'config.json': b''})


def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_files(tmp_path, {'config.json': b'1'})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'config.json').stat().st_mode) == 0o640
