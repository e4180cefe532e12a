"""Files that somebody else may have made are read with care, and ours appear complete or not at all."""
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from timm_sbs.common.errors import ArtifactError

__all__ = ['read_file', 'replace_files']

_FLAGS = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_BINARY', 0)


def read_file(path: Path, most: int) -> bytes | None:
    """Contents of a regular file of at most so many bytes, or None where there is none.

    A link is followed to a file of the same folder. If that is a snapshot in a cache of the Hub, it is also followed to
    where this cache has the contents. Other links would make whoever sends a folder choose which file is read.

    Raises:
        ArtifactError: It is larger, no regular file, or a link to elsewhere, or it cannot be read.
    """
    try:
        file, folder = Path(os.path.realpath(path, strict=True)), Path(os.path.realpath(path.parent))
        if file.parent not in (folder, _blobs(folder)):
            raise ArtifactError(f"'{path}' is a link out of its folder, which is not followed. Copy the file itself.")
        with open(file, 'rb', opener=lambda name, _: os.open(name, _FLAGS)) as opened:
            about = os.fstat(opened.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ArtifactError(f"'{path}' is not a regular file.")
            if about.st_size > most:
                raise ArtifactError(f"'{path}' is larger than {most:,} bytes, so it cannot be an artifact's.")
            return opened.read(about.st_size)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as e:
        raise ArtifactError(f"'{path}' cannot be read: {e}.") from e


def _blobs(folder: Path) -> Path | None:
    """Where a cache of the Hub has the contents of a snapshot's files: models--USER--NAME/blobs, of
    models--USER--NAME/snapshots/REVISION. None for other folders."""
    snapshots, repository = folder.parent, folder.parent.parent
    is_snapshot = snapshots.name == 'snapshots' and repository.name.startswith('models--')
    return repository / 'blobs' if is_snapshot else None


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write all files under temporary names, and only when that has worked, rename them, in their order.

    Folders are made where there are none.

    Raises:
        OSError: A file cannot be written; none is changed then.
    """
    written: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written[path] = path.with_name(f'.{path.name}.{uuid4().hex}')
            with open(written[path], 'xb') as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            if path.is_dir() and not path.is_symlink():  # else found when others have been renamed
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
