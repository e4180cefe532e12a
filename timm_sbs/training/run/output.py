"""The folder that a run writes to, checked before any work, and its text files."""
import shutil
import tempfile
from pathlib import Path

from timm_sbs.common.errors import SbsError
from timm_sbs.common.files import replace_files

__all__ = ['prepare_output', 'write_text']

# Predictor in float32, its optimizer's two moments, and both artifacts, in units of the artifact's own bytes. Rough.
CHECKPOINT_FACTOR = 8


def prepare_output(folder: str, artifact_bytes: int, checkpoints: int, others: int = 0) -> Path:
    """Make sure that a run can write where it is to write.

    Args:
        folder: Created if it does not exist.
        artifact_bytes: Of one artifact.
        checkpoints: How many will be there at a time.
        others: Bytes that are kept beside them, such as statistics.

    Raises:
        SbsError: The folder cannot be written to, or the disk has not enough room.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        free = shutil.disk_usage(path).free
    except OSError as e:
        raise SbsError(f"Cannot write to --output '{folder}': {e}.") from e
    needed = artifact_bytes * (2 + CHECKPOINT_FACTOR * checkpoints) + others
    if free < needed:
        raise SbsError(
            f"The disk of --output '{folder}' has {free:,} bytes left, but the run needs about {needed:,}. Make room, "
            f'or keep fewer checkpoints with --checkpoints-total-limit.')
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file; it appears complete or not at all.

    Raises:
        SbsError: It cannot be written.
    """
    try:
        replace_files({path: text.encode()})
    except OSError as e:
        raise SbsError(f'Cannot write {path}: {e}.') from e
