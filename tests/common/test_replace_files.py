import pytest

from timm_sbs.common.files import replace_files


def test_all_files_appear_or_none(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'new' / 'folder' / 'b'
    a.write_bytes(b'old')
    with pytest.raises(OSError):
        replace_files({b: b'new', tmp_path / 'a' / 'c': b'new'})
    assert a.read_bytes() == b'old' and not [path for path in tmp_path.rglob('*') if path.is_file() and path != a]
    replace_files({a: b'new', b: b'newer'})
    assert a.read_bytes() == b'new' and b.read_bytes() == b'newer'
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['a', 'b', 'folder', 'new']


def test_a_folder_in_place_of_a_file_is_found_before_any_is_renamed(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    a.write_bytes(b'old')
    b.mkdir()
    with pytest.raises(OSError, match='directory'):
        replace_files({a: b'new', b: b'new'})
    assert a.read_bytes() == b'old' and sorted(tmp_path.iterdir()) == [a, b]
