"""The artifact as a folder: config.json and model.safetensors, read with suspicion and written all or nothing."""
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.files import CONFIG_NAME, LICENSE_NAME, WEIGHTS_NAME, ArtifactFiles, consistently, read_config
from timm_sbs.artifact.ledger import ledger
from timm_sbs.artifact.stored import Stored
from timm_sbs.codec.tensor_file import Slot, encode_ordering, from_tensors, slots, to_tensors
from timm_sbs.common.config import ArtifactConfig, to_dict
from timm_sbs.common.errors import ArtifactError, OrderingError
from timm_sbs.common.files import made_folder, replace_files
from timm_sbs.common.results import Ledger, Results
from timm_sbs.predictor.base_model import BaseModel
from timm_sbs.predictor.generator import Generator, build_predictor
from timm_sbs.predictor.network import Predictor, num_predictor_parameters
from timm_sbs.predictor.ordering import output_sizes
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.predictor.tokens import WeightSpec

__all__ = [
    'CONFIG_NAME', 'WEIGHTS_NAME', 'LICENSE_NAME', 'save_artifact', 'load_artifact', 'artifact_bytes',
    'artifact_ledger', 'coded_ordering', 'written_ledger', 'record_results', 'read_config', 'config_text',
]


def _file_bytes(artifact: Artifact, ordering: Tensor | None = None) -> tuple[bytes, Ledger]:
    """Contents of model.safetensors, and its size ledger."""
    generator = artifact.generator
    tensors = artifact.file_tensors
    if tensors is None:
        contents = dataclasses.replace(artifact.contents, ordering=ordering)
        tensors = to_tensors(contents, artifact.config, generator.specs)
    data = safetensors.torch.save(tensors)
    return data, ledger(tensors, len(data), generator.predictor, artifact.base.state)


def coded_ordering(artifact: Artifact) -> Tensor:
    """The kernel orderings of an artifact as bytes, which those who save it several times compute once."""
    generator = artifact.generator
    return encode_ordering(generator.permutations, generator.config.ordering, generator.specs)


def artifact_ledger(artifact: Artifact, ordering: Tensor | None = None) -> dict[str, Any]:
    """The size ledger of the file that :func:`save_artifact` would write, with ``config`` (bytes of config.json) and
    ``total`` (of both files).

    ``ordering`` is the coded ordering, if it is there already (:func:`~timm_sbs.codec.tensor_file.encode_ordering`).
    """
    data, sizes = _file_bytes(artifact, ordering)
    config = dataclasses.replace(artifact.config, ledger=sizes, weights_sha256='0' * 64)
    text = config_text(config, artifact.base.pretrained_cfg).encode()
    return {**sizes, 'config': len(text), 'total': len(data) + len(text)}


def artifact_bytes(folder: str | Path) -> int:
    """Bytes of both files of a written artifact.

    Raises:
        ArtifactError: One of them is missing.
    """
    files = ArtifactFiles.of(folder)
    if files.weights_bytes is None:
        raise ArtifactError(f"'{folder}' is incomplete: it has no {WEIGHTS_NAME}.")
    return len(files.config) + files.weights_bytes


def save_artifact(folder: str | Path, artifact: Artifact, ordering: Tensor | None = None) -> ArtifactConfig:
    """Write an artifact in place of the one that may be in a folder. Other files in it stay.

    All files are written under other names, reach the disk, and are then renamed one by one: what fails before leaves
    the old ones. Two files that do not belong together, after a kill between two names, are found by their checksum
    and never loaded. Where the new artifact has no licence text, the old LICENSE goes. ``ordering`` is as for
    :func:`artifact_ledger`.

    Returns:
        The configuration as written, with the checksum of the tensors and the size ledger.

    Raises:
        ArtifactError: A tensor is not finite, or the folder cannot be written.
        OrderingError: An ordering is not a permutation of its layer's kernels.
    """
    folder = Path(expanduser(folder))
    data, sizes = _file_bytes(artifact, ordering)
    config = dataclasses.replace(artifact.config, ledger=sizes, weights_sha256=hashlib.sha256(data).hexdigest())
    text = config_text(config, artifact.base.pretrained_cfg)
    contents = {WEIGHTS_NAME: data, CONFIG_NAME: text.encode()}
    if artifact.license_text:
        contents[LICENSE_NAME] = artifact.license_text.encode()
    try:
        with made_folder(folder):
            replace_files({folder / name: content for name, content in contents.items()})
            if LICENSE_NAME not in contents:
                (folder / LICENSE_NAME).unlink(missing_ok=True)
    except OSError as e:
        raise ArtifactError(f'Cannot write the artifact to {folder}: {e}.') from e
    return config


def record_results(folder: str | Path, results: Mapping[str, Any]) -> None:
    """Add measured results to a written artifact, whose tensors stay as they are.

    Raises:
        ArtifactError: There is none, or its config.json cannot be written; it is as it was then.
        ConfigError: A result is of the wrong type or out of range.
    """
    config, pretrained_cfg = read_config(folder)
    config = dataclasses.replace(config, results=Results.of({**config.results, **results}))
    try:
        replace_files({Path(folder) / CONFIG_NAME: config_text(config, pretrained_cfg).encode()})
    except OSError as e:
        raise ArtifactError(f'Cannot write {Path(folder) / CONFIG_NAME}: {e}.') from e


def config_text(config: ArtifactConfig, pretrained_cfg: Mapping[str, Any]) -> str:
    """Contents of config.json, without spaces: users download it too, and ``timm-sbs info`` is how to read it."""
    root = {
        'architecture': 'sbs',
        'num_classes': pretrained_cfg.get('num_classes'),
        'model_args': config.base_args,
        'pretrained_cfg': dict(pretrained_cfg),
        'sbs': to_dict(config),
    }
    return json.dumps(root, separators=(',', ':'), allow_nan=False) + '\n'


def written_ledger(config: ArtifactConfig) -> Ledger:
    """The size ledger of a written artifact.

    Raises:
        ArtifactError: config.json has none.
    """
    if config.ledger is None:
        raise ArtifactError(f'{CONFIG_NAME} has no ledger, so it is no file that timm_sbs has written.')
    return config.ledger


def load_artifact(source: str | Path | ArtifactFiles) -> Artifact:
    """Read and validate an artifact. Shapes are compared with the base model's before a tensor is loaded.

    Args:
        source: Folder with config.json and model.safetensors, or its files.

    Raises:
        SbsError: Anything is missing, damaged, newer than this package, or does not fit the base model.
    """
    with torch.device('cpu'):  # whatever the default device is
        return _load(source) if isinstance(source, ArtifactFiles) else consistently(_load, expanduser(source))


def _load(files: ArtifactFiles) -> Artifact:
    config, pretrained_cfg = files.parsed()
    base = BaseModel(config.base, config.base_args, dict(pretrained_cfg))
    specs = tuple(specs_from_names(config.generated, base.state, config.base, config.pointwise_size))
    if not files.weights.is_file():
        raise ArtifactError(
            f"'{files.folder}' is incomplete: it has no {WEIGHTS_NAME}. Download or copy the folder again.")
    predictor = _structure(config, specs)
    tensors = _read_tensors(files, config, slots(config, specs, predictor, base.state))
    try:
        contents = from_tensors(tensors, config, specs, predictor, base.state)
    except (ArtifactError, OrderingError) as e:
        raise type(e)(f'{files.weights}: {e}') from None
    stored = Stored.of(tensors, contents, config.storage)
    predictor.load_state_dict(contents.predictor, assign=True)
    predictor.requires_grad_(False).eval()
    return Artifact(
        generator=Generator(config.generator, specs, contents.permutations, contents.frequencies, predictor),
        kept=contents.kept,
        base=base,
        storage=config.storage,
        rounded=contents.rounded,
        steps=contents.steps,
        results=config.results,
        license_text=files.license_text(),
        stored=stored,
    )


def _structure(config: ArtifactConfig, specs: tuple[WeightSpec, ...]) -> Predictor:
    """The predictor without memory for parameters. Its size is limited by what it generates."""
    size = num_predictor_parameters(
        config.generator.feature_width, output_sizes(specs, config.ordering), config.predictor)
    generated = sum(spec.num_weights for spec in specs)
    if size > generated:
        raise ArtifactError(
            f"{CONFIG_NAME} describes a predictor of {size:,} parameters, more than the {generated:,} weights that it "
            f"generates for '{config.base}', so it is not one that timm_sbs makes.")
    with torch.device('meta'):
        return build_predictor(config.generator, specs)


def _read_tensors(files: ArtifactFiles, config: ArtifactConfig, expected: Mapping[str, Slot]) -> dict[str, Tensor]:
    path = files.weights
    try:
        with safe_open(path, framework='pt') as file:
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (no dict)
            _check_slots(path, config, expected, views)
            if files.weights_sha256 != config.weights_sha256 or not files.weights_are_those:
                raise ArtifactError(
                    f'{path} is damaged or belongs to another {CONFIG_NAME}: its checksum is not the recorded one. '
                    f'Download or copy the folder again.')
            # Copies, since a mapped tensor would change with the file.
            return {name: file.get_tensor(name).clone() for name in expected}
    except (SafetensorError, OSError) as e:
        raise ArtifactError(
            f'{path} cannot be read: {e}. It may be truncated; download or copy the folder again.') from e


def _check_slots(path: Path, config: ArtifactConfig, expected: Mapping[str, Slot], found: Mapping[str, Any]) -> None:
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
