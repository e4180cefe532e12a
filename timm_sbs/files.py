"""Files that appear complete or not at all, and their checksums."""
import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Mapping

__all__ = ['replace_files', 'replacing', 'file_sha256']


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write all files under temporary names, and only when that has worked, rename them.

    Raises:
        OSError: A file cannot be written; none is changed then.
    """
    written: Dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
            written[path] = Path(temporary)
            with os.fdopen(handle, 'wb') as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


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
        os.chmod(temporary, 0o644)
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
