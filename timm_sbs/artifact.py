"""The artifact: a folder with config.json and model.safetensors, read with suspicion and written all or nothing."""
import copy
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timm_sbs.base_model import describe_base, first_names, is_counter
from timm_sbs.config import FORMAT_VERSION, SbsConfig, from_dict, to_dict
from timm_sbs.errors import ArtifactError, OrderingError
from timm_sbs.files import file_sha256, replace_files
from timm_sbs.generate import generate_weights, make_plan
from timm_sbs.layout import Contents, Slot, from_tensors, slots, to_tensors
from timm_sbs.ordering import Permutations, output_sizes
from timm_sbs.predictor import Predictor, num_predictor_parameters
from timm_sbs.quantization import rounded_predictor
from timm_sbs.sizes import ledger
from timm_sbs.targets import TargetSpec, specs_from_names

__all__ = [
    'Artifact', 'as_stored', 'save_artifact', 'load_artifact', 'artifact_sizes', 'record_results', 'read_config',
    'config_text',
]

CONFIG_NAME = 'config.json'
WEIGHTS_NAME = 'model.safetensors'
LICENSE_NAME = 'LICENSE'  # of the original's weights, where an artifact brings it along; no part of its size
MAX_CONFIG_BYTES = 4 << 20
MAX_LICENSE_BYTES = 1 << 20


@dataclass(frozen=True)
class Artifact:
    """A predictor and all that generation needs.

    Attributes:
        config: The sbs block of config.json.
        pretrained_cfg: timm's description of the original weights: input size, normalisation, classes and so on.
        specs: The generated weights, in the order of ``config.generated``.
        predictor: The trained predictor, float32, in eval mode.
        frequencies: Random frequencies of the encoding [K, D], float32.
        permutations: The kernel ordering of each generated weight.
        kept: The state dict entries of the base model that are stored as they are.
        base_state: The base model's state dict on the meta device, at its canonical classes and channels.
        license_text: Of the LICENSE beside the artifact, which goes wherever the artifact or a copy of it goes.
    """
    config: SbsConfig
    pretrained_cfg: Dict[str, Any]
    specs: Tuple[TargetSpec, ...]
    predictor: Predictor
    frequencies: Tensor
    permutations: Tuple[Permutations, ...]
    kept: Dict[str, Tensor]
    base_state: Dict[str, Tensor]
    license_text: Optional[str] = None

    def state_dict(self) -> Dict[str, Tensor]:
        """Generate the complete state dict of the base model: float32 weights, kept tensors, zeroed step counters."""
        plan = make_plan(self.config, self.specs, self.permutations, self.frequencies)
        tensors = {**self.kept, **generate_weights(self.predictor, plan)}
        for name in self.base_state:
            if is_counter(name):
                tensors[name] = torch.zeros((), dtype=torch.long)
        return {name: tensors[first] for name, first in first_names(self.base_state).items()}


def as_stored(predictor: Predictor, config: SbsConfig) -> Predictor:
    """The predictor that a reader of the artifact will have: a float32 copy, rounded as storage rounds."""
    stored = copy.deepcopy(predictor)
    state = predictor.state_dict()
    if config.quantization:
        state.update(rounded_predictor(state, config.quantization))
    else:
        state = {name: tensor.to(getattr(torch, config.storage_dtype)) for name, tensor in state.items()}
    stored.load_state_dict(state)
    return stored.requires_grad_(False).eval()


def _file_bytes(artifact: Artifact) -> Tuple[bytes, Dict[str, Any]]:
    """Contents of model.safetensors, and its size ledger."""
    contents = Contents(artifact.predictor.state_dict(), artifact.frequencies, artifact.permutations, artifact.kept)
    tensors = to_tensors(contents, artifact.config, artifact.specs)
    data = safetensors.torch.save(tensors)
    return data, ledger(tensors, len(data), artifact.predictor, artifact.base_state)


def artifact_sizes(artifact: Artifact) -> Dict[str, Any]:
    """The size ledger of the file that :func:`save_artifact` would write, with ``config`` (bytes of config.json) and
    ``total`` (of both files)."""
    data, sizes = _file_bytes(artifact)
    config = dataclasses.replace(artifact.config, sizes=sizes, weights_sha256='0' * 64)
    text = config_text(config, artifact.pretrained_cfg).encode()
    return {**sizes, 'config': len(text), 'total': len(data) + len(text)}


def save_artifact(folder: Union[str, Path], artifact: Artifact) -> SbsConfig:
    """Write an artifact. Files appear complete or not at all, and replace older ones.

    Returns:
        The configuration as written, with the checksum of the tensors and the size ledger.

    Raises:
        ArtifactError: A tensor is not finite, or the folder cannot be written.
        OrderingError: An ordering is not a permutation of its layer's kernels.
    """
    folder = Path(folder)
    data, sizes = _file_bytes(artifact)
    config = dataclasses.replace(artifact.config, sizes=sizes, weights_sha256=hashlib.sha256(data).hexdigest())
    text = config_text(config, artifact.pretrained_cfg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contents = {folder / WEIGHTS_NAME: data, folder / CONFIG_NAME: text.encode()}
        if artifact.license_text is not None:
            contents[folder / LICENSE_NAME] = artifact.license_text.encode()
        replace_files(contents)
    except OSError as e:
        raise ArtifactError(f'Cannot write the artifact to {folder}: {e}.') from e
    return config


def record_results(folder: Union[str, Path], results: Mapping[str, Any]) -> None:
    """Add measured results to a written artifact, whose tensors stay as they are."""
    config, pretrained_cfg = read_config(folder)
    config = dataclasses.replace(config, results={**config.results, **results})
    try:
        replace_files({Path(folder) / CONFIG_NAME: config_text(config, pretrained_cfg).encode()})
    except OSError as e:
        raise ArtifactError(f'Cannot write {Path(folder) / CONFIG_NAME}: {e}.') from e


def config_text(config: SbsConfig, pretrained_cfg: Mapping[str, Any]) -> str:
    """Contents of config.json, without spaces: users download it too, and ``timm-sbs info`` is how to read it."""
    root = {
        'architecture': 'sbs',
        'num_classes': pretrained_cfg.get('num_classes'),
        'model_args': {**config.base_args, 'base': config.base},
        'pretrained_cfg': dict(pretrained_cfg),
        'sbs': to_dict(config),
    }
    return json.dumps(root, separators=(',', ':'), allow_nan=False) + '\n'


def read_config(folder: Union[str, Path]) -> Tuple[SbsConfig, Dict[str, Any]]:
    """Read config.json of an artifact folder.

    Returns:
        The sbs block, and timm's pretrained_cfg as a dict.

    Raises:
        ArtifactError: The file is missing, no JSON, not an artifact's, or of a newer format.
        ConfigError: The sbs block holds an unknown or wrong setting.
    """
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        raise ArtifactError(f"'{folder}' is no predictor: it has no {CONFIG_NAME}.")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ArtifactError(f'{path} is larger than {MAX_CONFIG_BYTES} bytes, so it cannot be a predictor\'s.')
    try:
        root = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as e:
        raise ArtifactError(f'{path} cannot be read as JSON: {e}.') from e
    block = root.get('sbs') if isinstance(root, dict) else None
    if not isinstance(block, dict):
        raise ArtifactError(f"{path} has no 'sbs' block, so it is no predictor of timm_sbs. Is it an ordinary model?")
    version = block.get('format_version')
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f'{path} has no valid sbs.format_version, but {version!r}.')
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f'{path} is of format {version}, but this timm_sbs reads up to {FORMAT_VERSION}. '
            f'Upgrade timm_sbs: pip install --upgrade timm_sbs')
    config = from_dict(SbsConfig, block, f"'sbs' in {path}")
    pretrained_cfg = root.get('pretrained_cfg')
    if not isinstance(pretrained_cfg, dict):
        raise ArtifactError(f"{path} has no 'pretrained_cfg' object.")
    if not isinstance(pretrained_cfg.get('license'), (str, type(None))):
        raise ArtifactError(f"{path} has a 'license' that is no text, but {pretrained_cfg['license']!r}.")
    return config, pretrained_cfg


def load_artifact(folder: Union[str, Path]) -> Artifact:
    """Read and validate an artifact folder. Shapes are compared with the base model's before a tensor is loaded.

    Args:
        folder: Folder with config.json and model.safetensors.

    Raises:
        SbsError: Anything is missing, damaged, newer than this package, or does not fit the base model.
    """
    config, pretrained_cfg = read_config(folder)
    path = Path(folder) / WEIGHTS_NAME
    base_state = describe_base(config.base, config.base_args, pretrained_cfg)
    specs = tuple(specs_from_names(config.generated, base_state, config.base, config.pointwise_size))
    if not path.is_file():
        raise ArtifactError(f"'{folder}' is incomplete: it has no {WEIGHTS_NAME}. Download or copy the folder again.")
    predictor = _structure(config, specs)
    expected = slots(config, specs, predictor, base_state)
    tensors = _read_tensors(path, config, expected)
    try:
        contents = from_tensors(tensors, config, specs, predictor, base_state)
    except (ArtifactError, OrderingError) as e:
        raise type(e)(f'{path}: {e}') from None
    predictor.load_state_dict(contents.predictor, assign=True)
    return Artifact(
        config=config,
        pretrained_cfg=dict(pretrained_cfg),
        specs=specs,
        predictor=predictor.requires_grad_(False).eval(),
        frequencies=contents.frequencies,
        permutations=contents.permutations,
        kept=contents.kept,
        base_state=base_state,
        license_text=_read_license(Path(folder) / LICENSE_NAME),
    )


def _read_license(path: Path) -> Optional[str]:
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_LICENSE_BYTES:
        raise ArtifactError(f'{path} is larger than {MAX_LICENSE_BYTES} bytes, so it can be no licence.')
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, ValueError) as e:
        raise ArtifactError(f'{path} cannot be read: {e}.') from e


def _structure(config: SbsConfig, specs: Tuple[TargetSpec, ...]) -> Predictor:
    """The predictor without memory for parameters. Its size is limited by what it generates."""
    outputs = output_sizes(specs, config.ordering)
    size = num_predictor_parameters(config.feature_width, outputs, config.predictor)
    generated = sum(spec.num_weights for spec in specs)
    if size > generated:
        raise ArtifactError(
            f"{CONFIG_NAME} describes a predictor of {size:,} parameters, more than the {generated:,} weights that it "
            f"generates for '{config.base}', so it is not one that timm_sbs makes.")
    with torch.device('meta'):
        return Predictor(config.feature_width, outputs, config.predictor)


def _read_tensors(path: Path, config: SbsConfig, expected: Mapping[str, Slot]) -> Dict[str, Tensor]:
    try:
        with safe_open(path, framework='pt') as file:
            views = {name: file.get_slice(name) for name in file.keys()}
            _check_slots(path, config, expected, views)
            if file_sha256(path) != config.weights_sha256:
                raise ArtifactError(
                    f'{path} is damaged or belongs to another {CONFIG_NAME}: its checksum is not the recorded one. '
                    f'Download or copy the folder again.')
            # Copies, since a mapped tensor would change with the file.
            return {name: file.get_tensor(name).clone() for name in expected}
    except (SafetensorError, OSError) as e:
        raise ArtifactError(
            f'{path} cannot be read: {e}. It may be truncated; download or copy the folder again.') from e


def _check_slots(path: Path, config: SbsConfig, expected: Mapping[str, Slot], found: Mapping[str, Any]) -> None:
    for name, slot in expected.items():
        if name not in found:
            raise ArtifactError(f"{path} lacks tensor '{name}', which '{config.base}' needs.")
        shape, dtype = found[name].get_shape(), found[name].get_dtype()
        if not slot.holds(shape, dtype):
            raise ArtifactError(
                f"Tensor '{name}' in {path} is {dtype} of shape {list(shape)}, but {slot} follows from {CONFIG_NAME} "
                f"and '{config.base}'.")
    surplus = sorted(set(found) - set(expected))
    if surplus:
        raise ArtifactError(f"{path} holds tensor '{surplus[0]}', which no predictor of '{config.base}' has.")
