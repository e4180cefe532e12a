import pytest

from timm_sbs.files import replace_files


def test_all_files_appear_or_none(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    a.write_bytes(b'old')
    with pytest.raises(OSError):
        replace_files({a: b'new', tmp_path / 'no folder' / 'b': b'new'})
    assert a.read_bytes() == b'old' and [p.name for p in tmp_path.iterdir()] == ['a']
    replace_files({a: b'new', b: b'newer'})
    assert a.read_bytes() == b'new' and b.read_bytes() == b'newer' and len(list(tmp_path.iterdir())) == 2
    assert a.stat().st_mode & 0o777 == 0o644
