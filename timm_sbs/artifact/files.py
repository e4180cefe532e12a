"""The files of an artifact: their names, config.json, LICENSE, and how they are written. Nothing here knows tensors."""
import json
import math
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any

from timm_sbs.common.config import FORMAT_VERSION, ArtifactConfig, from_dict, to_dict
from timm_sbs.common.errors import ArtifactError, ConfigError
from timm_sbs.common.fields import require_text
from timm_sbs.common.files import replace_files

__all__ = [
    'CONFIG_NAME', 'WEIGHTS_NAME', 'LICENSE_NAME', 'MAX_CONFIG_BYTES', 'config_text', 'read_config', 'read_license',
    'write_files',
]

CONFIG_NAME = 'config.json'
WEIGHTS_NAME = 'model.safetensors'
LICENSE_NAME = 'LICENSE'  # of the original's weights, where an artifact brings it along; no part of its size
MAX_CONFIG_BYTES = 4 << 20
MAX_LICENSE_BYTES = 1 << 20
_UPGRADE = 'A later timm_sbs may read it: pip install --upgrade timm_sbs'


def read_config(folder: str | Path) -> tuple[ArtifactConfig, dict[str, Any]]:
    """Read config.json of an artifact: its sbs block, and timm's pretrained_cfg as a dict.

    Raises:
        ArtifactError: The file is missing, not JSON, not an artifact's, or of another format.
        ConfigError: The sbs block holds an unknown or wrong setting.
    """
    path = Path(folder) / CONFIG_NAME
    data = _read(path, MAX_CONFIG_BYTES)
    if data is None:
        raise ArtifactError(f"'{folder}' is not an artifact: {CONFIG_NAME} not found.")
    try:
        root = json.loads(data.decode('utf-8'), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f'{path} cannot be read as JSON: {e}.') from e
    block = root.get('sbs') if isinstance(root, dict) else None
    if not isinstance(block, dict):
        raise ArtifactError(f"{path} has no 'sbs' block, so it is not an artifact's. Is it an ordinary model?")
    version, pretrained_cfg = block.get('format_version'), root.get('pretrained_cfg')
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f'{path} has no valid sbs.format_version, but {version!r}.')
    if version != FORMAT_VERSION:
        advice = _UPGRADE if version > FORMAT_VERSION else 'Fit it again: that format was never released.'
        raise ArtifactError(f'{path} is of format {version}, but this timm_sbs reads {FORMAT_VERSION}. {advice}')
    information = {name: value if isinstance(value := block.get(name), dict) else {} for name in ('ledger', 'results')}
    config = from_dict(ArtifactConfig, {**block, **information}, f"'sbs' in {path}")
    if not isinstance(pretrained_cfg, dict):
        raise ArtifactError(f"{path} has no 'pretrained_cfg' object.")
    license = pretrained_cfg.get('license')
    if not isinstance(license, (str, type(None))):
        raise ArtifactError(f"{path} has a 'license' that is not a text, but {license!r}.")
    require_text('pretrained_cfg.license', license or '')
    return config, pretrained_cfg


def _read(path: Path, most: int) -> bytes | None:
    """Contents of a file of at most so many bytes, or None where there is none."""
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > most:
            raise ArtifactError(f'{path} is larger than {most} bytes, so it cannot be an artifact\'s.')
        return path.read_bytes()
    except OSError as e:
        raise ArtifactError(f'{path} cannot be read: {e}.') from e


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f'{number} is not a finite number')
    return value


def read_license(folder: str | Path) -> str | None:
    """Contents of LICENSE, or None where there is none.

    Raises:
        ArtifactError: It cannot be read.
    """
    path = Path(folder) / LICENSE_NAME
    data = _read(path, MAX_LICENSE_BYTES)
    try:
        return (data or b'').decode('utf-8') or None
    except ValueError as e:
        raise ArtifactError(f'{path} cannot be read: {e}.') from e


def config_text(config: ArtifactConfig, pretrained_cfg: Mapping[str, Any]) -> str:
    """Contents of config.json, without spaces: users download it too, and ``timm-sbs info`` is how to read it.

    Raises:
        ConfigError: Results or timm's description cannot be written as JSON.
    """
    root = {
        'architecture': 'sbs',
        'num_classes': pretrained_cfg.get('num_classes'),
        'model_args': config.base_args,
        'pretrained_cfg': dict(pretrained_cfg),
        'sbs': to_dict(config),
    }
    try:
        return json.dumps(root, separators=(',', ':'), allow_nan=False) + '\n'
    except (TypeError, ValueError, RecursionError) as e:
        raise ConfigError(f'The results or the pretrained_cfg cannot be written as JSON: {e}.') from None


def write_files(folder: str | Path, contents: Mapping[str, bytes]) -> None:
    """Write files of an artifact by their names, in this order. A LICENSE that is not among them is deleted.

    They are written under other names, reach the disk, and are then renamed one by one: what fails before leaves the
    old ones. The tensors come before config.json, which has their checksum: after a kill between the two names, the
    files do not belong together, which a reader finds.

    Raises:
        ArtifactError: A file cannot be written.
    """
    folder = Path(expanduser(folder))
    try:
        replace_files({folder / name: data for name, data in contents.items()})
        if LICENSE_NAME not in contents:
            (folder / LICENSE_NAME).unlink(missing_ok=True)
    except OSError as e:
        raise ArtifactError(f'Cannot write the artifact to {folder}: {e}.') from e
