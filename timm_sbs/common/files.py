"""Files that appear complete or not at all, and their checksums."""
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ['made_folder', 'replace_files', 'replacing', 'file_sha256']


def _mode() -> int:
    """Permissions of a new file, as open() gives them: mkstemp makes files that only their owner may read."""
    mask = os.umask(0o077)  # it can be read only by being set
    os.umask(mask)
    return 0o666 & ~mask


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write all files under temporary names, and only when that has worked, rename them.

    Raises:
        OSError: A file cannot be written; none is changed then.
    """
    written: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
            written[path] = Path(name)
            with os.fdopen(handle, 'wb') as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, _mode())
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it for the block, which fills it. If that fails, those that are empty go again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under, which is renamed if that works. It may be lost in a power cut.

    Raises:
        OSError: The file cannot be written or renamed.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, _mode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Checksum of a file, read piece by piece.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
