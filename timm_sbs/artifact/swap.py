"""Files that belong together, replaced together.

No system renames several files at once, so one rename decides, and the others can be made good at any time:

1. All new files are written to ``.sbs_writing`` inside the folder, and reach the disk.
2. That is renamed to ``.sbs_saved``. From now on the new files are the folder's: a reader asks :func:`current`, which
   takes a file from ``.sbs_saved`` while it is there, and from the folder otherwise.
3. Old files go to ``.sbs_old``, new ones take their places one by one, and both folders go.

A failure before the second step leaves the old files, and one after it brings them back. A kill leaves the old files
before the second step and the new ones after it; the next :func:`swap_files` or :func:`settle` completes the third step
and drops what is left over. Other files in the folder are not touched. Where there is no folder yet, the new one is
written under another name beside it, and renamed as a whole.
"""
import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ['current', 'settle', 'swap_files']

_WRITING, _SAVED, _OLD = '.sbs_writing', '.sbs_saved', '.sbs_old'


def current(folder: Path, name: str) -> Path:
    """Where a file of the folder is now. An empty file in the place of an optional one means that there is none."""
    saved = folder / _SAVED / name
    return saved if saved.is_file() else folder / name


def settle(folder: Path) -> None:
    """Complete what a killed :func:`swap_files` has left.

    Raises:
        OSError: The folder cannot be written.
    """
    saved = folder / _SAVED
    if saved.is_dir():
        for path in sorted(saved.iterdir()):
            _place(path, folder / path.name)
        os.rmdir(saved)
    for name in (_WRITING, _OLD):
        shutil.rmtree(folder / name, ignore_errors=True)


def swap_files(folder: Path, contents: Mapping[str, bytes | None]) -> None:
    """Write files of a folder, all or none. None as content removes a file, if it is there.

    Raises:
        OSError: A file cannot be written or renamed; the folder is as it was then.
    """
    if folder.is_dir():
        settle(folder)
        _swap(folder, contents)
    else:
        _create(folder, contents)


def _create(folder: Path, contents: Mapping[str, bytes | None]) -> None:
    """Write a folder that is not there yet."""
    writing = folder.with_name(f'.{folder.name}{_WRITING}')
    with _parents(folder):
        try:
            _write(writing, {name: data for name, data in contents.items() if data is not None})
            os.rename(writing, folder)
        except BaseException:
            shutil.rmtree(writing, ignore_errors=True)
            raise


@contextlib.contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """Make the folders above one, and remove them if something fails."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _swap(folder: Path, contents: Mapping[str, bytes | None]) -> None:
    writing, saved, old = (folder / name for name in (_WRITING, _SAVED, _OLD))
    changed = {name: data for name, data in contents.items() if data is not None or (folder / name).exists()}
    placed: list[str] = []
    try:
        _write(writing, {name: data or b'' for name, data in changed.items()})
        os.mkdir(old)
        os.rename(writing, saved)
        for name in changed:
            placed.append(name)
            if (folder / name).exists():
                os.replace(folder / name, old / name)
            _place(saved / name, folder / name)
        _sync(folder)
        os.rmdir(saved)
    except BaseException:
        _bring_back(folder, placed)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _bring_back(folder: Path, placed: list[str]) -> None:
    """Put old files back into their places. Where even that fails, readers find the new ones, and nothing is mixed."""
    writing, saved, old = (folder / name for name in (_WRITING, _SAVED, _OLD))
    if saved.is_dir():
        for name in reversed(placed):
            if not (saved / name).exists():
                if (folder / name).exists():
                    os.replace(folder / name, saved / name)
                else:
                    (saved / name).touch()
            if (old / name).exists():
                os.replace(old / name, folder / name)
        os.rename(saved, writing)
    for path in (writing, old):
        shutil.rmtree(path, ignore_errors=True)


def _place(new: Path, path: Path) -> None:
    """Move a file to its place. An empty one stands for none."""
    if new.stat().st_size:
        os.replace(new, path)
    else:
        path.unlink(missing_ok=True)
        new.unlink()


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder of files to the disk; one of this name is what a kill has left."""
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    for name, data in contents.items():
        with open(folder / name, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make renames inside a folder last, on systems that can."""
    if os.name != 'posix':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
