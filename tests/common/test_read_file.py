"""What others have made is read with care: regular files of a folder alone, and text that says no more than it says."""
import os
import pickle
import threading

import pytest

from timm_sbs.common.errors import ArtifactError, ConfigError, MissingExtraError, SbsError, printable
from timm_sbs.common.files import read_file

MOST = 100


@pytest.fixture()
def folder(tmp_path):
    (tmp_path / 'secret').write_text('mine')
    (tmp_path / 'received').mkdir()
    return tmp_path / 'received'


def test_a_regular_file_of_at_most_so_many_bytes(folder):
    assert read_file(folder / 'a', MOST) is None and read_file(folder / 'no' / 'a', MOST) is None
    (folder / 'a').write_bytes(b'x' * MOST)
    assert read_file(folder / 'a', MOST) == b'x' * MOST and read_file(folder / 'a' / 'b', MOST) is None
    with pytest.raises(ArtifactError, match='larger than 99 bytes'):
        read_file(folder / 'a', MOST - 1)


@pytest.mark.parametrize('target', ['../secret', '/dev/zero', '../received2/a', '../received/../secret', 'b'])
def test_links_to_elsewhere(folder, target):
    """Also those to a link, and to a folder whose name begins alike."""
    (folder.parent / 'received2').mkdir()
    (folder.parent / 'received2' / 'a').write_text('theirs')
    (folder / 'b').symlink_to('../secret')
    (folder / 'a').symlink_to(target)
    with pytest.raises(ArtifactError, match='link out of its folder'):
        read_file(folder / 'a', MOST)


def test_links_inside_the_folder_and_the_folder_itself(folder):
    (folder / 'b').write_text('x')
    (folder / 'a').symlink_to('b')
    (folder.parent / 'link').symlink_to('received')
    assert read_file(folder / 'a', MOST) == read_file(folder.parent / 'link' / 'a', MOST) == b'x'
    (folder / 'c').symlink_to('nothing')
    assert read_file(folder / 'c', MOST) is None
    (folder / 'd').symlink_to('d')
    with pytest.raises(ArtifactError, match='cannot be read'):
        read_file(folder / 'd', MOST)


def test_files_of_the_hubs_cache_are_in_its_blobs(tmp_path):
    snapshot = tmp_path / 'models--user--name' / 'snapshots' / 'abc'
    for path in (snapshot, tmp_path / 'models--user--name' / 'blobs', tmp_path / 'models--other--name' / 'blobs'):
        path.mkdir(parents=True)
        (path / 'x').write_text('x')
    (snapshot / 'a').symlink_to('../../blobs/x')
    assert read_file(snapshot / 'a', MOST) == b'x'
    (snapshot / 'b').symlink_to('../../../models--other--name/blobs/x')
    with pytest.raises(ArtifactError, match='link out of its folder'):
        read_file(snapshot / 'b', MOST)
    (tmp_path / 'models--other--name' / 'blobs' / 'y').symlink_to('x')
    evil = tmp_path / 'models--evil--name'  # blobs that are a link to a folder of the user
    (evil / 'snapshots' / 'abc').mkdir(parents=True)
    (evil / 'blobs').symlink_to(tmp_path / 'models--other--name' / 'blobs')
    (evil / 'snapshots' / 'abc' / 'a').symlink_to('../../blobs/x')
    with pytest.raises(ArtifactError, match='link out of its folder'):
        read_file(evil / 'snapshots' / 'abc' / 'a', MOST)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes')
def test_what_is_no_file_is_not_waited_for(folder):
    os.mkfifo(folder / 'pipe')
    (folder / 'directory').mkdir()
    found = []

    def read():
        for name in ('pipe', 'directory'):
            with pytest.raises(ArtifactError) as error:
                read_file(folder / name, MOST)
            found.append(str(error.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert 'not a regular file' in found[0] and len(found) == 2


@pytest.mark.parametrize('text, shown', [
    ('plain é 字', 'plain é 字'), ('two\n  lines\r\n', 'two lines'), ('\x1b]0;PWNED\x07', r'\x1b]0;PWNED\x07'),
    ('a\u202eb\ud800', r'a\u202eb\ud800'), ('a\tb\x85c', r'a\tb c')])
def test_what_is_printed_is_one_line_of_printable_characters(text, shown):
    assert printable(text) == shown
    for kind in (SbsError, ConfigError, MissingExtraError):
        error = kind(text)
        assert str(error) == shown == str(pickle.loads(pickle.dumps(error))) and shown.encode('utf-8', 'strict')


def test_what_is_printed_is_short():
    for size in (999, 1000, 1001, 3_000_000):
        shown = printable(f'begin{"x" * (size - 8)}end')
        assert shown.startswith('begin') and shown.endswith('end') and len(shown) == min(size, len(shown)) <= 1000
    assert len(printable('\x1b' * 3_000_000)) <= 1000
