"""Files that are read without this package: checkpoints, ONNX models, and what a repository of the Hub has."""
import json
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch

from timm_sbs.artifact.card import CARD_NAME
from timm_sbs.artifact.images import ImageInput, image_input
from timm_sbs.artifact.labels import MAX_TEXT, class_names
from timm_sbs.artifact.transformers_js import photograph_input
from timm_sbs.common.errors import ArtifactError, TargetError, printable
from timm_sbs.common.files import replace_files
from timm_sbs.common.progress import say
from timm_sbs.common.tensors import copied

if TYPE_CHECKING:
    from timm_sbs.artifact.artifact import Artifact
    from timm_sbs.onnx.check import Checked

__all__ = ['export_checkpoint', 'export_onnx', 'onnx_model', 'repository_files']


def export_checkpoint(artifact: 'Artifact', file: str | Path) -> None:
    """See :meth:`timm_sbs.artifact.artifact.Artifact.export`."""
    _check_name(file, '.safetensors', 'by which timm knows how to read the file')
    license = artifact.base.pretrained_cfg.get('license')
    metadata = {'format': 'pt', 'license': license, 'license_text': artifact.license_text}
    weights = copied(artifact.as_stored().state_dict())  # a file has no shared memory
    data = safetensors.torch.save(weights, metadata={key: text for key, text in metadata.items() if text})
    _write(file, data)


def export_onnx(artifact: 'Artifact', file: str | Path, preprocessing: bool, plain: bool) -> 'Checked | None':
    """See :meth:`timm_sbs.artifact.artifact.Artifact.export_onnx`."""
    _check_name(file, '.onnx', 'by which programs know what the file is')
    data, checked = onnx_model(artifact, preprocessing, plain)
    _write(file, data)
    return checked


def onnx_model(artifact: 'Artifact', preprocessing: bool, plain: bool) -> 'tuple[bytes, Checked | None]':
    """An ONNX model of an artifact, and what ONNX Runtime made of it; None if onnxruntime is not installed.

    The input 'pixel_values' is [N, C, H, W] float32, normalized as timm's evaluation does it. The output is 'logits'.
    Metadata of the model say how images are resized, cropped and normalized, and the names of the classes.

    Args:
        preprocessing: The input is uint8 [N, H, W, C] instead, which the model normalizes: images as they are, cropped.
        plain: Write all weights, for a runtime that needs these as constants.

    Raises:
        MissingExtraError: The extra 'onnx' is not installed.
        SbsError: torch cannot export the network, ONNX Runtime does not agree with it, or the model takes over 2 GB.
    """
    from timm_sbs.onnx.check import check_model
    from timm_sbs.onnx.export import plain_model, self_expanding_model, with_preprocessing

    base, images = artifact.base, image_input(artifact.base.pretrained_cfg)
    mean, std, size = images.mean, images.std, (images.channels, images.height, images.width)
    if preprocessing and not images.normalizable:
        raise TargetError(f'Images of {size[0]} channels cannot be normalized: mean is {mean} and std is {std}.')
    say(None, f"tracing '{base.name}', which takes some seconds")
    stored = artifact.as_stored()
    network = stored.create_model().eval()
    plain = plain or artifact.origin is not None  # an update's weights are sums, which are written as they are
    if plain:
        model = plain_model(network, size)
    else:
        model = self_expanding_model(
            network, size, stored.tensors(), artifact.config, stored.generator, base.state, base.norm_eps)
    if preprocessing:
        model = with_preprocessing(model, mean, std)
    for key, value in _metadata(artifact, images, preprocessing).items():
        model.metadata_props.add(key=key, value=value)
    try:
        data = model.SerializeToString()
    except Exception as e:  # protobuf's EncodeError; ValueError in older versions
        raise ArtifactError(f"'{base.name}' takes more than 2 GB as an ONNX file, which none may.") from e
    return data, check_model(data, network, mean, std, plain)


def repository_files(artifact: 'Artifact', repo_id: str, card: str | None, onnx: bool) -> dict[str, bytes]:
    """What :meth:`timm_sbs.artifact.artifact.Artifact.push_to_hub` uploads, by the files' names."""
    if onnx:
        photograph_input(artifact.base.pretrained_cfg, artifact.results)  # what is refused is refused at once
    model = artifact.onnx_model() if onnx else None
    text = artifact.card(repo_id, model) if card is None else card
    return {**artifact.files(model)[1], CARD_NAME: text.encode()}


def _metadata(artifact: 'Artifact', images: ImageInput, preprocessing: bool) -> dict[str, str]:
    """What a program must know of the model beside its numbers; values that are no texts are JSON."""
    described = artifact.base.pretrained_cfg
    found = {
        'architecture': artifact.base.name, 'license': described.get('license') or 'unknown',
        'classes': [printable(name, MAX_TEXT) for name in class_names(artifact.base.name, described)],
        'input_size': (images.channels, images.height, images.width), 'color': 'RGB', 'crop_pct': images.crop_pct,
        'crop_mode': images.crop_mode, 'interpolation': images.interpolation,
        **({} if preprocessing else {'mean': images.mean, 'std': images.std})}
    texts = {name: printable(value, MAX_TEXT) if isinstance(value, str) else json.dumps(value, separators=(',', ':'))
             for name, value in found.items() if value}
    return texts | ({'license_text': artifact.license_text} if artifact.license_text else {})


def _check_name(file: str | Path, ending: str, why: str) -> None:
    if Path(file).suffix != ending:
        raise ArtifactError(f"'{file}' must end in {ending}, {why}.")


def _write(file: str | Path, data: bytes) -> None:
    try:
        replace_files({Path(expanduser(file)): data})
    except OSError as e:
        raise ArtifactError(f"Cannot write '{file}': {e}.") from e
