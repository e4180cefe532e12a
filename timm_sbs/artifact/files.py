"""The files of an artifact: their names, config.json, LICENSE, the digest, and how they are written."""
import hashlib
import json
import math
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple

from timm_sbs.common.config import FORMAT_VERSION, ArtifactConfig, from_dict, to_dict
from timm_sbs.common.errors import ArtifactError, ConfigError
from timm_sbs.common.fields import require_text
from timm_sbs.common.files import read_file, replace_files
from timm_sbs.predictor.base_model import BaseModel

__all__ = [
    'CONFIG_NAME', 'WEIGHTS_NAME', 'LICENSE_NAME', 'ONNX_NAME', 'PROCESSOR_NAME', 'MAX_CONFIG_BYTES', 'Described',
    'config_text', 'digest', 'read_config', 'read_license', 'structure', 'write_files',
]

CONFIG_NAME = 'config.json'
WEIGHTS_NAME = 'model.safetensors'
LICENSE_NAME = 'LICENSE'  # of the original's weights, where an artifact brings it along; no part of its size
# Of a repository on the Hub alone: where transformers.js looks for a model, and for what it does with photographs.
ONNX_NAME, PROCESSOR_NAME = 'onnx/model.onnx', 'preprocessor_config.json'
MAX_CONFIG_BYTES = 4 << 20
MAX_DEPTH = 32  # of lists and objects of config.json in each other
MAX_LICENSE_BYTES = 1 << 20
_INFORMATION = ('ledger', 'results')  # of the sbs block
_BUILT_FROM = ('input_size', 'num_classes', 'fixed_input_size', 'first_conv', 'classifier')  # of timm's pretrained_cfg
_UPGRADE = 'A later timm_sbs may read it: pip install --upgrade timm_sbs'


class Described(NamedTuple):
    """What a config.json says: its sbs block, the base model with timm's description, and the structure that the digest
    covers."""
    config: ArtifactConfig
    base: BaseModel
    structure: bytes


def structure(root: Mapping[str, Any]) -> bytes:
    """Everything in a config.json that decides which weights and which network come out, as JSON in one form."""
    described = root['pretrained_cfg']
    parts = {
        'sbs': {name: value for name, value in root['sbs'].items() if name not in (*_INFORMATION, 'digest')},
        'model_args': root.get('model_args') or {},
        'pretrained_cfg': {name: described[name] for name in _BUILT_FROM if name in described},
    }
    return json.dumps(parts, sort_keys=True, separators=(',', ':'), allow_nan=False).encode()


def digest(structure: bytes, weights: bytes) -> str:
    """What both files have in common: SHA-256 of the structure and of model.safetensors."""
    found = hashlib.sha256(structure)
    found.update(weights)
    return found.hexdigest()


def read_config(folder: str | Path) -> Described:
    """Read config.json of an artifact. The digest itself is looked at by who has the weights.

    Raises:
        ArtifactError: The file is missing, not JSON, not an artifact's, or of another format.
        ConfigError: The sbs block holds an unknown or wrong setting.
    """
    path = Path(folder) / CONFIG_NAME
    data = read_file(path, MAX_CONFIG_BYTES)
    if data is None:
        raise ArtifactError(f"'{folder}' is not an artifact: {CONFIG_NAME} not found.")
    try:
        root = json.loads(data.decode('utf-8'), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f'{path} cannot be read as JSON: {e}.') from None
    if _is_deep(root):
        raise ArtifactError(f'{path} has lists or objects in each other, more than {MAX_DEPTH} deep.')
    block = root.get('sbs') if isinstance(root, dict) else None
    if not isinstance(block, dict) or root.get('architecture') != 'sbs':  # by which timm finds this package
        raise ArtifactError(
            f"{path} has no 'sbs' block, or another architecture, so it is not an artifact's. Is it an ordinary model?")
    version, pretrained_cfg, args = (
        block.get('format_version'), root.get('pretrained_cfg'), root.get('model_args', {}))
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f'{path} has no valid sbs.format_version, but {version!r}.')
    if version != FORMAT_VERSION:
        advice = _UPGRADE if version > FORMAT_VERSION else 'Fit it again: that format was never released.'
        raise ArtifactError(f'{path} is of format {version}, but this timm_sbs reads {FORMAT_VERSION}. {advice}')
    information = {name: value if isinstance(value := block.get(name), dict) else {} for name in _INFORMATION}
    config = from_dict(ArtifactConfig, {**block, **information}, f"'sbs' in {path}")
    if not (isinstance(pretrained_cfg, dict) and isinstance(args, dict)):
        raise ArtifactError(f"{path} has no 'pretrained_cfg' object, or 'model_args' that are none.")
    license = pretrained_cfg.get('license')
    if not isinstance(license, (str, type(None))):
        raise ArtifactError(f"{path} has a 'license' that is not a text, but {license!r}.")
    require_text('pretrained_cfg.license', license or '')
    return Described(config, BaseModel(config.base, args, pretrained_cfg), structure(root))


def _is_deep(value: object) -> bool:
    """Whether lists and dicts are in each other, more than MAX_DEPTH deep. Written without recursion, which has an end
    of its own."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [part for outer in level if isinstance(outer, (dict, list, tuple))
                 for part in (outer.values() if isinstance(outer, dict) else outer)]
    return bool(level)


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
    data = read_file(path, MAX_LICENSE_BYTES)
    try:
        return (data or b'').decode('utf-8') or None
    except ValueError as e:
        raise ArtifactError(f'{path} cannot be read: {e}.') from e


def config_text(config: ArtifactConfig, base: BaseModel, weights: bytes, more: Mapping[str, Any]) -> str:
    """Contents of config.json beside these of model.safetensors, without spaces: users download it too, and
    ``timm-sbs info`` is how to read it.

    Args:
        more: Keys for others than timm and this package.

    Raises:
        ConfigError: Results or timm's description cannot be written as JSON, or not so that a reader takes them.
    """
    block = to_dict(config)
    root = {
        'architecture': 'sbs',
        'num_classes': base.pretrained_cfg.get('num_classes'),
        'model_args': base.args,
        'pretrained_cfg': dict(base.pretrained_cfg),
        'sbs': block,
        **more,
    }
    try:
        block['digest'] = digest(structure(root), weights)
        text = json.dumps(root, separators=(',', ':'), allow_nan=False) + '\n'
    except (TypeError, ValueError, RecursionError) as e:
        raise ConfigError(f'The results or the pretrained_cfg cannot be written as JSON: {e}.') from None
    if len(text) > MAX_CONFIG_BYTES or _is_deep(root):
        raise ConfigError(f'{CONFIG_NAME} would be too large or too deep to be read again ({len(text):,} bytes). Leave '
                          f'out results, or labels of the pretrained_cfg.')
    return text


def write_files(folder: str | Path, contents: Mapping[str, bytes]) -> None:
    """Write files of an artifact by their names, in this order. A LICENSE that is not among them is deleted.

    They are written under other names, reach the disk, and are then renamed one by one: what fails before leaves the
    old ones. The tensors come before config.json, which has the digest of both: after a kill between the two names, the
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
