"""Files that appear complete or not at all."""
import os
import tempfile
from pathlib import Path
from typing import Dict, Mapping

__all__ = ['replace_files']


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
