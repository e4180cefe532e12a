import os

import pytest

from timm_sbs.common.files import replace_files, replacing


def test_all_files_appear_or_none(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    a.write_bytes(b'old')
    with pytest.raises(OSError):
        replace_files({a: b'new', tmp_path / 'no folder' / 'b': b'new'})
    assert a.read_bytes() == b'old' and [p.name for p in tmp_path.iterdir()] == ['a']
    replace_files({a: b'new', b: b'newer'})
    assert a.read_bytes() == b'new' and b.read_bytes() == b'newer' and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('mask, mode', [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        replace_files({tmp_path / 'a': b'new'})
        with replacing(tmp_path / 'b') as temporary:
            temporary.write_bytes(b'new')
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / 'a', tmp_path / 'b')] == [mode, mode]
