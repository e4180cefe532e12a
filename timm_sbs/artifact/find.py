"""Where an artifact is: a folder, one inside the package, or one on the Hub."""
from os.path import expanduser
from pathlib import Path

import timm

from timm_sbs.artifact import download as hub
from timm_sbs.artifact.files import CONFIG_NAME, LICENSE_NAME, WEIGHTS_NAME
from timm_sbs.common.errors import ArtifactError

__all__ = ['shipped_folder', 'find_folder']


def shipped_folder(name: str) -> Path | None:
    """Folder of a predictor that ships inside the package, or None."""
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
    files = (CONFIG_NAME, WEIGHTS_NAME) if weights else (CONFIG_NAME,)
    beside = (LICENSE_NAME,) if weights else ()
    if name.startswith('hf-hub:'):
        return hub.download(name.removeprefix('hf-hub:'), names=files, optional=beside)
    path = Path(expanduser(name.removeprefix('local-dir:')))
    if path.is_file():
        path = path.parent
    if path.is_dir():
        return path
    embedded = shipped_folder(name)
    if embedded:
        return embedded
    raise ArtifactError(
        f"'{name}' is neither a folder of a predictor nor the name of one. Named ones: "
        f"{', '.join(timm.list_models('sbs_*'))}.")
