import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from timm_sbs.cli.main import main
from timm_sbs.common import cache
from timm_sbs.common.cache import cache_folder, content_key, load_cached, store_cached


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('TIMM_SBS_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def test_what_is_stored_is_found_again(folder):
    assert load_cached('orderings', 'a') is None
    store_cached('orderings', 'a', {'x': torch.arange(5)}, 'five')
    assert torch.equal(load_cached('orderings', 'a')['x'], torch.arange(5))
    assert load_cached('orderings', 'b') is None and load_cached('weights', 'a') is None
    assert [path.name for path in folder.rglob('*') if path.is_file()] == ['a.safetensors']


def test_off_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TIMM_SBS_CACHE', 'off')
    store_cached('orderings', 'a', {'x': torch.arange(5)}, 'five')
    assert cache_folder() is None and load_cached('orderings', 'a') is None and not list(tmp_path.iterdir())


def test_lies_beside_the_hubs_cache_by_default(monkeypatch):
    monkeypatch.delenv('TIMM_SBS_CACHE')
    assert cache_folder().name == 'timm_sbs' and str(cache_folder()).startswith(cache.HF_HOME)


def test_a_damaged_file_counts_as_none(folder):
    store_cached('orderings', 'a', {'x': torch.arange(5)}, 'five')
    (folder / 'orderings' / 'a.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{')
    assert load_cached('orderings', 'a') is None


def test_a_folder_that_can_not_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('TIMM_SBS_CACHE', str(tmp_path / 'file'))
    store_cached('orderings', 'a', {'x': torch.arange(5)}, 'five')
    assert load_cached('orderings', 'a') is None


def test_the_longest_unused_go_first(folder, monkeypatch):
    for age, key in enumerate('cba'):
        store_cached('orderings', key, {'x': torch.zeros(1000)}, 'zeros')
        os.utime(folder / 'orderings' / f'{key}.safetensors', (1000 + age, 1000 + age))
    load_cached('orderings', 'c')  # used last
    monkeypatch.setattr(cache, 'MOST_BYTES', 9000)
    store_cached('orderings', 'd', {'x': torch.zeros(1000)}, 'zeros')
    assert {path.stem for path in (folder / 'orderings').iterdir()} == {'c', 'd'}


def forbidden(*args, **kwargs):
    raise PermissionError('not yours')


def test_a_cache_that_may_only_be_read_is_used(folder, monkeypatch):
    store_cached('orderings', 'a', {'x': torch.arange(5)}, 'five')
    monkeypatch.setattr(os, 'utime', forbidden)
    assert torch.equal(load_cached('orderings', 'a')['x'], torch.arange(5))


def test_clearing_deletes_what_it_may_and_counts_that(folder, monkeypatch, capsys):
    for key, count in (('a', 1000), ('b', 2000)):
        store_cached('orderings', key, {'x': torch.zeros(count)}, 'zeros')
    unlink, size = Path.unlink, (folder / 'orderings' / 'b.safetensors').stat().st_size
    monkeypatch.setattr(Path, 'unlink', lambda path, **kw: (forbidden if path.stem == 'a' else unlink)(path, **kw))
    assert main(['cache', '--clear']) == 0
    assert capsys.readouterr().out.startswith(f'freed {size:,} bytes in')
    assert [path.stem for path in (folder / 'orderings').iterdir()] == ['a']
    store_cached('orderings', 'c', {'x': torch.zeros(1000)}, 'zeros')
    monkeypatch.setattr(cache, 'MOST_BYTES', 5000)
    os.utime(folder / 'orderings' / 'a.safetensors', (9e9, 9e9))
    store_cached('orderings', 'd', {'x': torch.zeros(1000)}, 'zeros')  # drops the others, of which one cannot go
    assert 'a' in {path.stem for path in (folder / 'orderings').iterdir()}


@pytest.mark.parametrize('by', ['clearing', 'storing'])
def test_what_killed_writers_have_left_goes_after_a_day(folder, by):
    store_cached('orderings', 'a', {'x': torch.arange(5)}, 'five')
    names = [folder / 'orderings' / f'.b.safetensors.{name}' for name in ('old', 'new')]
    for path in names:
        path.write_bytes(bytes(100))
    os.utime(names[0], (time.time() - 25 * 60 * 60,) * 2)
    size = (folder / 'orderings' / 'a.safetensors').stat().st_size
    if by == 'clearing':
        assert cache.clear_cache('weights') == 0 and names[0].exists()
        assert cache.clear_cache() == size + 100
    else:
        store_cached('orderings', 'c', {'x': torch.arange(5)}, 'five')
    assert not names[0].exists() and names[1].exists()


def test_keys_follow_content_and_its_parts():
    assert content_key(['a', b'bc']) == content_key([b'a', 'bc']) != content_key(['ab', 'c'])


@pytest.mark.parametrize('place', [3, 12, 60, -5000, -1])
def test_any_damage_is_found(folder, place):
    """In the header as in the tensors: a file's checksum is that of all its bytes."""
    store_cached('orderings', 'a', {'x': torch.arange(5000)}, 'many')
    path = folder / 'orderings' / 'a.safetensors'
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert load_cached('orderings', 'a') is None
    store_cached('orderings', 'a', {'x': torch.arange(5000)}, 'many')
    assert torch.equal(load_cached('orderings', 'a')['x'], torch.arange(5000))


def test_a_file_without_a_checksum_counts_as_none(folder):
    store_cached('orderings', 'a', {'x': torch.arange(5)}, 'five')
    save_file({'x': torch.arange(5)}, folder / 'orderings' / 'a.safetensors', {'description': '"checksum":"crc32:'})
    assert load_cached('orderings', 'a') is None
    (folder / 'orderings' / 'a.safetensors').write_bytes(b'')
    assert load_cached('orderings', 'a') is None
