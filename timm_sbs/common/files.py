"""Files that appear complete or not at all."""
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ['replace_files']


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write all files under temporary names, and only when that has worked, rename them, in their order.

    Folders are made where there are none. If that or the writing fails, those that are empty go again.

    Raises:
        OSError: A file cannot be written; none is changed then.
    """
    missing = {folder for path in contents for folder in path.parents if not folder.exists()}
    written: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
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
        for folder in sorted(missing, reverse=True):  # those inside first
            with suppress(OSError):  # not empty
                folder.rmdir()


def _mode() -> int:
    """Permissions of a new file, as open() gives them: mkstemp makes files that only their owner may read."""
    mask = os.umask(0o077)  # it can be read only by being set
    os.umask(mask)
    return 0o666 & ~mask
