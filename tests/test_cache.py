import os

import pytest
import torch

from timm_sbs import cache
from timm_sbs.cache import cache_folder, content_key, load_cached, store_cached


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


def test_keys_follow_content_and_its_parts():
    assert content_key(['a', b'bc']) == content_key([b'a', 'bc']) != content_key(['ab', 'c'])
