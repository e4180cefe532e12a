"""Reading an artifact with suspicion: shapes are compared with the base model's before any values are read."""
import hashlib
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, read_config, read_license
from timm_sbs.artifact.ledger import sizes
from timm_sbs.codec.tensor_file import Slot, encode_ordering, from_tensors, slots
from timm_sbs.common.config import ArtifactConfig
from timm_sbs.common.errors import ArtifactError, OrderingError
from timm_sbs.predictor.base_model import BaseModel
from timm_sbs.predictor.generator import Generator, build_predictor
from timm_sbs.predictor.network import Predictor, num_predictor_parameters
from timm_sbs.predictor.ordering import output_sizes
from timm_sbs.predictor.selection import specs_from_names
from timm_sbs.predictor.tokens import WeightSpec

__all__ = ['load_artifact', 'artifact_ledger', 'coded_ordering']


def load_artifact(folder: str | Path) -> Artifact:
    """Read and validate an artifact.

    Args:
        folder: With config.json and model.safetensors.

    Raises:
        SbsError: Anything is missing, damaged, newer than this package, or does not fit the base model.
    """
    with torch.device('cpu'):  # whatever the default device is
        return _load(Path(expanduser(folder)))


def _load(folder: Path) -> Artifact:
    config, pretrained_cfg = read_config(folder)
    base = BaseModel(config.base, config.base_args, pretrained_cfg)
    specs = tuple(specs_from_names(config.generated, base.state, config.base, config.pointwise_size))
    predictor = _structure(config, specs)
    path = folder / WEIGHTS_NAME
    tensors = _read_tensors(path, config, slots(config, specs, predictor, base.state))
    try:
        contents = from_tensors(tensors, config, specs, predictor, base.state)
    except (ArtifactError, OrderingError) as e:
        raise type(e)(f'{path}: {e}') from None
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
        license_text=read_license(folder),
    ).from_source(tensors)


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


def _read_tensors(path: Path, config: ArtifactConfig, expected: Mapping[str, Slot]) -> dict[str, Tensor]:
    """The tensors of a file, whose header is compared with what is expected before anything else of it is looked at."""
    if not path.is_file():
        raise ArtifactError(f"'{path.parent}' is incomplete: {path.name} not found. Download or copy the folder again.")
    try:
        with safe_open(path, framework='pt') as file:
            _check_slots(path, config, expected, {name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != config.weights_sha256:
            raise ArtifactError(
                f'{path} is damaged or belongs to another {CONFIG_NAME}: its checksum is not the recorded one. '
                f'Download or copy the folder again.')
        tensors = safetensors.torch.load(data)
        return {name: tensors[name] for name in expected}  # in the order of the base model
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
    if surplus := sorted(set(found) - set(expected)):
        raise ArtifactError(f"{path} holds tensor '{surplus[0]}', which no artifact of '{config.base}' has.")


def coded_ordering(artifact: Artifact) -> Tensor:
    """The kernel orderings of an artifact as bytes, for those who measure it several times."""
    generator = artifact.generator
    return encode_ordering(generator.permutations, generator.config.ordering, generator.specs)


def artifact_ledger(artifact: Artifact, ordering: Tensor | None = None) -> dict[str, int]:
    """Bytes that :meth:`~timm_sbs.artifact.artifact.Artifact.save` would write: those of
    :func:`~timm_sbs.artifact.ledger.sizes`, ``config`` (of config.json) and ``total`` (of both files).

    ``ordering`` is what :func:`coded_ordering` returns, if that is known.
    """
    config, contents = artifact.files(ordering)
    found = {**sizes(config.ledger), 'config': len(contents[CONFIG_NAME])}
    return {**found, 'total': found['file'] + found['config']}
