"""The page: what is in ``site`` as it is, the model, and settings.json, which has all that is an artifact's own.

What an artifact says (class names, a licence) is written into settings.json alone, and the page shows it as text.
"""
import base64
import hashlib
import json
from collections.abc import Callable
from os.path import expanduser
from pathlib import Path
from typing import Any

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.files import LICENSE_NAME
from timm_sbs.artifact.images import image_input, why_no_photographs
from timm_sbs.artifact.labels import MAX_TEXT, class_names
from timm_sbs.common.errors import MissingExtraError, SbsError, TargetError, printable
from timm_sbs.common.files import replace_files
from timm_sbs.common.progress import say

__all__ = ['CDN', 'RUNTIME', 'write_page']

# onnxruntime-web: one thread on the CPU, the smallest build. Its licence is in the first lines of the first file.
CDN = 'https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/'  # index.html lets the page connect to it
RUNTIME = {  # files that the page needs: bytes, and the digest that a browser compares
    'ort.wasm.bundle.min.mjs': (73_054, 'sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG'),
    'ort-wasm-simd-threaded.wasm': (
        14_239_897, 'sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM')}

_SITE = Path(__file__).with_name('site')
_MODEL, _SETTINGS = 'model.onnx', 'settings.json'
_BEST, _FAST = 11, 9  # qualities of Brotli; the best one takes half a minute for a runtime, and saves a seventh


def write_page(
        artifact: Artifact, folder: str | Path, runtime: str | Path | None = None, name: str | None = None,
) -> dict[str, int]:
    """Write a page that classifies photographs with an artifact, in place of one that may be there.

    The folder can be served by anything that serves files. Beside large files are .br files, for servers that send
    compressed files as they are.

    Args:
        artifact: A classifier of RGB images.
        folder: Where index.html and its files go. Other files in it stay.
        runtime: The folder 'dist' of the npm package onnxruntime-web, of which two files are copied. None: the page
            loads them from a public address, in a fixed version, and compares their digests.
        name: Title of the page; default: the name of the artifact's base model.

    Returns:
        Bytes of each file by its name.

    Raises:
        SbsError: The artifact is no such classifier, the runtime lacks a file, or the folder cannot be written.

    Example:
        >>> write_page(timm_sbs.load('sbs_tf_efficientnet_lite0_1500kb'), 'site')  # doctest: +SKIP
    """
    described = artifact.base.pretrained_cfg
    images, labels = image_input(described), class_names(artifact.base.name, described, short=True)
    if reason := why_no_photographs(images, described['num_classes'], artifact.results):
        raise TargetError(f'A page cannot classify photographs with this model: {reason}.')
    files, compressed = _runtime_files(runtime), _compressor()
    model = artifact.onnx_model(preprocessing=True)
    say(None, 'compressing files with Brotli')
    contents = {path.name: path.read_bytes() for path in sorted(_SITE.iterdir())}
    contents |= {_MODEL: model, f'{_MODEL}.br': compressed(model, quality=_BEST)}
    contents |= files | {f'{path}.br': compressed(data, quality=_FAST) for path, data in files.items()}
    if artifact.license_text:
        contents[LICENSE_NAME] = artifact.license_text.encode()
    settings = {
        'title': printable(name or artifact.base.name, MAX_TEXT),
        'licence': printable(described.get('license') or 'unknown', MAX_TEXT),
        'licenceFile': LICENSE_NAME if artifact.license_text else None,
        'image': {  # sides are [height, width]
            'size': [images.height, images.width], 'resized': images.resized, 'squash': images.squash,
            'interpolation': images.interpolation},
        'model': {**_described(_MODEL, model), 'compressed': len(contents[f'{_MODEL}.br'])},
        'runtime': [_described(path, data) for path, data in files.items()] or [
            {'url': CDN + file, 'bytes': size, 'integrity': digest} for file, (size, digest) in RUNTIME.items()],
        'labels': [printable(label, MAX_TEXT) for label in labels]}
    contents[_SETTINGS] = json.dumps(settings, indent=1).encode()
    folder = Path(expanduser(folder))
    try:
        replace_files({folder / path: data for path, data in contents.items()})
    except OSError as e:
        raise SbsError(f"Cannot write the page into '{folder}': {e}.") from e
    return {path: len(data) for path, data in contents.items()}


def _runtime_files(runtime: str | Path | None) -> dict[str, bytes]:
    """Files to copy, by their path in the page's folder."""
    if runtime is None:
        return {}
    folder, found = Path(expanduser(runtime)), {}
    for file in RUNTIME:
        try:
            found[f'runtime/{file}'] = (folder / file).read_bytes()
        except OSError as e:
            raise SbsError(f"'{folder}' has no readable {file}. It must be the folder 'dist' of the npm package "
                           f'onnxruntime-web (npm pack {CDN.split("/")[-3]}).') from e
    return found


def _described(path: str, data: bytes) -> dict[str, Any]:
    """What the page must know of a file before it loads it."""
    digest = base64.b64encode(hashlib.sha384(data).digest()).decode()
    return {'url': path, 'bytes': len(data), 'integrity': f'sha384-{digest}'}


def _compressor() -> Callable[..., bytes]:
    """Brotli's function, which is asked for before a model is traced."""
    try:
        import brotli
    except ImportError as e:
        raise MissingExtraError(
            "A page needs brotli: pip install 'timm_sbs[onnx]', or '.[onnx]' in a checkout.") from e
    return brotli.compress
