"""The artifact: a folder with config.json and model.safetensors, read with suspicion and written all or nothing."""
import copy
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple, Union

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timm_sbs.config import FORMAT_VERSION, SbsConfig, from_dict, to_dict
from timm_sbs.errors import ArtifactError, OrderingError
from timm_sbs.files import replace_files
from timm_sbs.generate import generate_weights, make_plan
from timm_sbs.ordering import Permutations, check_permutations, permutation_shapes
from timm_sbs.packing import pack, packed_bytes, unpack
from timm_sbs.predictor import Predictor
from timm_sbs.targets import ConvSpec, describe_base, is_counter, kept_names, specs_from_names

__all__ = [
    'Artifact', 'as_stored', 'save_artifact', 'load_artifact', 'record_results', 'read_config', 'expected_layout',
    'config_text',
]

CONFIG_NAME = 'config.json'
WEIGHTS_NAME = 'model.safetensors'
MAX_CONFIG_BYTES = 4 << 20

# How safetensors names torch's dtypes in a file's header.
_DTYPE_CODES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.bool: 'BOOL',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8',
}


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
    """
    config: SbsConfig
    pretrained_cfg: Dict[str, Any]
    specs: Tuple[ConvSpec, ...]
    predictor: Predictor
    frequencies: Tensor
    permutations: Tuple[Permutations, ...]
    kept: Dict[str, Tensor]
    base_state: Dict[str, Tensor]

    def state_dict(self) -> Dict[str, Tensor]:
        """Generate the complete state dict of the base model: float32 weights, kept tensors, zeroed step counters."""
        plan = make_plan(self.config, self.specs, self.permutations, self.frequencies)
        tensors = {**self.kept, **generate_weights(self.predictor, plan)}
        for name in self.base_state:
            if is_counter(name):
                tensors[name] = torch.zeros((), dtype=torch.long)
        return {name: tensors[name] for name in self.base_state}


def as_stored(predictor: Predictor, config: SbsConfig) -> Predictor:
    """The predictor that a reader of the artifact will have: a float32 copy, rounded as storage rounds."""
    stored = copy.deepcopy(predictor)
    stored.load_state_dict(_stored_state(predictor, config))
    return stored.requires_grad_(False).eval()


def _stored_state(predictor: Predictor, config: SbsConfig) -> Dict[str, Tensor]:
    dtype = getattr(torch, config.storage_dtype)
    return {name: tensor.to(dtype) for name, tensor in predictor.state_dict().items()}


def save_artifact(folder: Union[str, Path], artifact: Artifact) -> SbsConfig:
    """Write an artifact. Files appear complete or not at all, and replace older ones.

    Returns:
        The configuration as written, with the checksum of the tensors.

    Raises:
        ArtifactError: A tensor is not finite, or the folder cannot be written.
        OrderingError: An ordering is not a permutation of its layer's kernels.
    """
    folder = Path(folder)
    tensors = {f'predictor.{k}': v for k, v in _stored_state(artifact.predictor, artifact.config).items()}
    tensors.update({f'kept.{k}': v for k, v in artifact.kept.items()})
    tensors['frequencies'] = artifact.frequencies.float()
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(
                f"Tensor '{name}' holds values that are not finite in {tensor.dtype}, so the artifact was not written. "
                f"Did training diverge, or does storage_dtype='{artifact.config.storage_dtype}' overflow?")
    tensors['ordering'] = torch.from_numpy(_pack_orderings(artifact))
    data = safetensors.torch.save(tensors)
    config = dataclasses.replace(artifact.config, weights_sha256=hashlib.sha256(data).hexdigest())
    text = config_text(config, artifact.pretrained_cfg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_files({folder / WEIGHTS_NAME: data, folder / CONFIG_NAME: text.encode()})
    except OSError as e:
        raise ArtifactError(f'Cannot write the artifact to {folder}: {e}.') from e
    return config


def record_results(folder: Union[str, Path], results: Mapping[str, Any]) -> None:
    """Add measured results to a written artifact, whose tensors stay as they are."""
    artifact = load_artifact(folder)
    config = dataclasses.replace(artifact.config, results={**artifact.config.results, **results})
    save_artifact(folder, dataclasses.replace(artifact, config=config))


def config_text(config: SbsConfig, pretrained_cfg: Mapping[str, Any]) -> str:
    """Contents of config.json."""
    root = {
        'architecture': 'sbs',
        'num_classes': pretrained_cfg.get('num_classes'),
        'model_args': {**config.base_args, 'base': config.base},
        'pretrained_cfg': dict(pretrained_cfg),
        'sbs': to_dict(config),
    }
    return json.dumps(root, indent=2, allow_nan=False) + '\n'


def _pack_orderings(artifact: Artifact) -> np.ndarray:
    parts = []
    for permutations, spec in zip(artifact.permutations, artifact.specs):
        check_permutations(permutations, spec, artifact.config.ordering)
        parts.extend(pack(rows) for rows in permutations)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)


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
    specs = tuple(specs_from_names(config.generated, base_state, config.base))
    if not path.is_file():
        raise ArtifactError(f"'{folder}' is incomplete: it has no {WEIGHTS_NAME}. Download or copy the folder again.")
    with torch.device('meta'):  # the structure, without memory for parameters
        predictor = Predictor(config.feature_width, [spec.token_size for spec in specs], config.predictor)
    tensors = _read_tensors(path, config, expected_layout(config, specs, predictor, base_state))
    predictor.load_state_dict(
        {k: v.float() for k, v in _with_prefix(tensors, 'predictor.').items()}, assign=True)
    return Artifact(
        config=config,
        pretrained_cfg=dict(pretrained_cfg),
        specs=specs,
        predictor=predictor.requires_grad_(False).eval(),
        frequencies=tensors['frequencies'],
        permutations=_unpack_orderings(tensors['ordering'].numpy(), specs, config, path),
        kept=_with_prefix(tensors, 'kept.'),
        base_state=base_state,
    )


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def expected_layout(
        config: SbsConfig,
        specs: Tuple[ConvSpec, ...],
        predictor: Predictor,
        base_state: Mapping[str, Tensor],
) -> Dict[str, Tuple[Tuple[int, ...], str]]:
    """Shape and dtype code of every tensor that model.safetensors must hold."""
    code = _DTYPE_CODES[getattr(torch, config.storage_dtype)]
    layout = {f'predictor.{k}': (tuple(v.shape), code) for k, v in predictor.state_dict().items()}
    layout.update({
        f'kept.{name}': (tuple(base_state[name].shape), _DTYPE_CODES.get(base_state[name].dtype, 'unknown'))
        for name in kept_names(base_state, config.generated)})
    layout['frequencies'] = (config.frequencies_shape, 'F32')
    ordering = sum(packed_bytes(shape) for spec in specs for shape in permutation_shapes(spec, config.ordering))
    layout['ordering'] = ((ordering,), 'U8')
    return layout


def _read_tensors(path: Path, config: SbsConfig, layout: Dict[str, Tuple[Tuple[int, ...], str]]) -> Dict[str, Tensor]:
    digest = hashlib.sha256()
    try:
        with safe_open(path, framework='pt') as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {name: (tuple(view.get_shape()), view.get_dtype()) for name, view in slices.items()}
            _check_layout(path, config, layout, found)
            with open(path, 'rb') as raw:
                while chunk := raw.read(1 << 20):
                    digest.update(chunk)
            if digest.hexdigest() != config.weights_sha256:
                raise ArtifactError(
                    f'{path} is damaged or belongs to another {CONFIG_NAME}: its checksum is not the recorded one. '
                    f'Download or copy the folder again.')
            # Copies, since a mapped tensor would change with the file.
            tensors = {name: file.get_tensor(name).clone() for name in layout}
    except (SafetensorError, OSError) as e:
        raise ArtifactError(
            f'{path} cannot be read: {e}. It may be truncated; download or copy the folder again.') from e
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(f"Tensor '{name}' in {path} holds values that are not finite.")
    return tensors


def _check_layout(
        path: Path,
        config: SbsConfig,
        expected: Mapping[str, Tuple[Tuple[int, ...], str]],
        found: Mapping[str, Tuple[Tuple[int, ...], str]],
) -> None:
    for name, (shape, dtype) in expected.items():
        if name not in found:
            raise ArtifactError(f"{path} lacks tensor '{name}', which '{config.base}' needs.")
        if found[name] != (shape, dtype):
            raise ArtifactError(
                f"Tensor '{name}' in {path} is {found[name][1]} of shape {list(found[name][0])}, but {dtype} of shape "
                f"{list(shape)} follows from {CONFIG_NAME} and '{config.base}'.")
    surplus = sorted(set(found) - set(expected))
    if surplus:
        raise ArtifactError(f"{path} holds tensor '{surplus[0]}', which no predictor of '{config.base}' has.")


def _unpack_orderings(
        packed: np.ndarray,
        specs: Tuple[ConvSpec, ...],
        config: SbsConfig,
        path: Path,
) -> Tuple[Permutations, ...]:
    start = 0
    layers = []
    for spec in specs:
        rows = []
        for shape in permutation_shapes(spec, config.ordering):
            stop = start + packed_bytes(shape)
            try:
                rows.append(unpack(packed[start:stop], shape))
            except OrderingError as e:
                raise OrderingError(f"{path}, ordering of '{spec.name}': {e}") from None
            start = stop
        layers.append(tuple(rows))
    return tuple(layers)
