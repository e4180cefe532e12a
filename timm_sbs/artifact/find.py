"""Where an artifact is: a folder, one inside the package, or one on the Hub."""
from os.path import expanduser
from pathlib import Path

import timm

from timm_sbs.artifact import hub
from timm_sbs.common.errors import ArtifactError

__all__ = ['find_folder', 'shipped_folder']


def shipped_folder(name: str) -> Path | None:
    """Folder of an artifact inside the package, or None."""
    folder = Path(__file__).parent / 'shipped' / name
    return folder if folder.is_dir() else None


def find_folder(name: str, weights: bool = True) -> Path:
    """Folder of an artifact: a folder or a file in it, ``local-dir:FOLDER``, ``hf-hub:USER/NAME``, or an entry's name.

    Args:
        name: What a user calls it.
        weights: Whether model.safetensors is needed too, and a LICENSE; if not, only config.json is downloaded.

    Raises:
        ArtifactError: There is none.
    """
    if name.startswith('hf-hub:'):
        return hub.download(name.removeprefix('hf-hub:'), weights=weights)
    path = Path(expanduser(name.removeprefix('local-dir:')))
    if path.is_file():
        path = path.parent
    if path.is_dir():
        return path
    if folder := shipped_folder(name):
        return folder
    raise ArtifactError(f"'{name}' is neither a folder nor the name of an artifact. Named ones: "
                        f"{', '.join(timm.list_models('sbs_*'))}.")
