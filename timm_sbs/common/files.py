"""Files that appear complete or not at all."""
import os
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

__all__ = ['replace_files']


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
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
