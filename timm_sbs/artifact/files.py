"""The files of an artifact: each is read once, and all are those of one save."""
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from timm_sbs.common.config import FORMAT_VERSION, ArtifactConfig, from_dict
from timm_sbs.common.errors import ArtifactError, UnknownFieldError
from timm_sbs.common.fields import require_json, require_text
from timm_sbs.common.files import file_sha256
from timm_sbs.common.version import __version__

__all__ = [
    'CONFIG_NAME', 'WEIGHTS_NAME', 'LICENSE_NAME', 'MAX_CONFIG_BYTES', 'ArtifactFiles', 'consistently', 'read_config',
]

CONFIG_NAME = 'config.json'
WEIGHTS_NAME = 'model.safetensors'
LICENSE_NAME = 'LICENSE'  # of the original's weights, where an artifact brings it along; no part of its size
MAX_CONFIG_BYTES = 4 << 20
MAX_LICENSE_BYTES = 1 << 20
ATTEMPTS = 5  # to read a folder that somebody else is writing

T = TypeVar('T')


@dataclass(frozen=True)
class ArtifactFiles:
    """The files of an artifact at one moment.

    Attributes:
        folder: Where they are.
        config: Contents of config.json.
        weights: Path of model.safetensors, which need not be there.
        license: Path of LICENSE, which need not be there.
        identity: What tells model.safetensors from one that replaces it.
    """
    folder: Path
    config: bytes
    weights: Path
    license: Path
    identity: tuple[int, ...] | None

    @classmethod
    def of(cls, folder: str | Path) -> 'ArtifactFiles':
        """The files of a folder.

        Raises:
            ArtifactError: There is no config.json, or it cannot be read.
        """
        folder = Path(folder)
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise ArtifactError(f"'{folder}' is no predictor: it has no {CONFIG_NAME}.")
        weights = folder / WEIGHTS_NAME
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ArtifactError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes, so it cannot be a predictor's.")
            return cls(folder, path.read_bytes(), weights, folder / LICENSE_NAME, _identity(weights))
        except OSError as e:
            raise ArtifactError(f'{path} cannot be read: {e}.') from e

    @cached_property
    def weights_sha256(self) -> str:
        """Checksum of model.safetensors, which is read for it once.

        Raises:
            OSError: It cannot be read.
        """
        return file_sha256(self.weights)

    @property
    def are_current(self) -> bool:
        """Whether the folder still has these files."""
        try:
            return ArtifactFiles.of(self.folder) == self
        except ArtifactError:
            return False

    @property
    def weights_are_those(self) -> bool:
        """Whether model.safetensors has not been replaced since."""
        return _identity(self.weights) == self.identity

    @property
    def weights_bytes(self) -> int | None:
        """Size of model.safetensors, or None where there is none."""
        return self.weights.stat().st_size if self.weights.is_file() else None

    def parsed(self) -> tuple[ArtifactConfig, dict[str, Any]]:
        """See :func:`read_config`."""
        return _parse(self.config, self.folder / CONFIG_NAME)

    def license_text(self) -> str | None:
        """Contents of LICENSE, or None where there is none.

        Raises:
            ArtifactError: It cannot be read.
        """
        path = self.license
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_LICENSE_BYTES:
            raise ArtifactError(f'{path} is larger than {MAX_LICENSE_BYTES} bytes, so it can be no licence.')
        try:
            return path.read_text(encoding='utf-8') or None
        except (OSError, ValueError) as e:
            raise ArtifactError(f'{path} cannot be read: {e}.') from e


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def consistently(read: Callable[[ArtifactFiles], T], folder: str | Path) -> T:
    """What a function makes of a folder's files; once more if they were replaced while it read them."""
    for attempt in range(ATTEMPTS):
        files = None
        try:
            files = ArtifactFiles.of(folder)
            return read(files)
        except ArtifactError:
            if attempt + 1 == ATTEMPTS or (files and files.are_current):
                raise
    raise AssertionError


def read_config(folder: str | Path) -> tuple[ArtifactConfig, dict[str, Any]]:
    """Read config.json of an artifact folder.

    Returns:
        The sbs block, and timm's pretrained_cfg as a dict.

    Raises:
        ArtifactError: The file is missing, no JSON, not an artifact's, or of a newer format.
        ConfigError: The sbs block holds an unknown setting, or a wrong setting, size or result.
    """
    return consistently(ArtifactFiles.parsed, folder)


def _parse(data: bytes, path: Path) -> tuple[ArtifactConfig, dict[str, Any]]:
    try:
        root = json.loads(data.decode('utf-8'))
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f'{path} cannot be read as JSON: {e}.') from e
    block = root.get('sbs') if isinstance(root, dict) else None
    if not isinstance(block, dict):
        raise ArtifactError(f"{path} has no 'sbs' block, so it is no predictor of timm_sbs. Is it an ordinary model?")
    version = block.get('format_version')
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f'{path} has no valid sbs.format_version, but {version!r}.')
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f'{path} is of format {version}, but this timm_sbs reads {FORMAT_VERSION}. {_upgrade(block)}')
    if version < FORMAT_VERSION:
        raise ArtifactError(
            f'{path} is of format {version}, which was never released; this timm_sbs reads {FORMAT_VERSION}. '
            f'Fit the predictor again.')
    try:
        config = from_dict(ArtifactConfig, block, f"'sbs' in {path}")
    except UnknownFieldError as e:
        raise UnknownFieldError(f'{e} {_upgrade(block)}') from None
    pretrained_cfg = root.get('pretrained_cfg')
    if not isinstance(pretrained_cfg, dict):
        raise ArtifactError(f"{path} has no 'pretrained_cfg' object.")
    if not isinstance(pretrained_cfg.get('license'), (str, type(None))):
        raise ArtifactError(f"{path} has a 'license' that is no text, but {pretrained_cfg['license']!r}.")
    require_json('pretrained_cfg', pretrained_cfg)
    require_text('pretrained_cfg.license', pretrained_cfg.get('license') or '')
    return config, pretrained_cfg


def _upgrade(block: Mapping[str, Any]) -> str:
    """How to get a version that reads a later artifact: the one that wrote it, as far as its results say."""
    results = block.get('results')
    versions = results.get('versions') if isinstance(results, dict) else None
    writer = versions.get('timm_sbs') if isinstance(versions, dict) else None
    if isinstance(writer, str) and re.fullmatch(r'[0-9][0-9a-z.+]{0,30}', writer) and writer != __version__:
        return f"timm_sbs {writer} wrote it, and this is {__version__}: pip install 'timm_sbs>={writer}'"
    return 'A later timm_sbs may read it: pip install --upgrade timm_sbs'
