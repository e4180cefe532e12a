"""What transformers.js reads beside an ONNX model in a repository of the Hub, so that it classifies as timm does.

transformers.js finds out by config.json which classes there are, and by preprocessor_config.json how photographs become
the model's input. Both are made for its own source: ``src/image_processors_utils.js`` and ``src/utils/image.js``.
"""
import json
from collections.abc import Mapping
from typing import Any

from timm_sbs.artifact.files import ONNX_NAME, PROCESSOR_NAME
from timm_sbs.artifact.images import ImageInput, image_input, why_no_photographs
from timm_sbs.artifact.labels import MAX_TEXT, class_names
from timm_sbs.common.errors import TargetError, printable
from timm_sbs.predictor.base_model import BaseModel

__all__ = ['around_model', 'photograph_input']

# Any type with which transformers.js classifies images would do: it runs them all alike. Python's transformers does not
# know this one, and says so; of a type that it knows, it can make a network of random weights.
_MODEL_TYPE = 'mobilenet_v4'
# Lanczos, whatever the artifact's interpolation is: of transformers.js' filters in Node, it is the only one that does
# not leave out pixels where a photograph is shrunk, and so is nearest to Pillow's. Browsers have a filter of their own.
_RESAMPLE = 1


def photograph_input(pretrained_cfg: Mapping[str, Any], results: Mapping[str, Any]) -> ImageInput:
    """How transformers.js makes the input of the network of a description, of which ``results`` are known.

    Raises:
        TargetError: It cannot do it as timm does.
    """
    images = image_input(pretrained_cfg)
    reason = why_no_photographs(images, pretrained_cfg['num_classes'], results)
    if not reason and images.height != images.width and not images.squash:
        reason = f'it takes images of {images.height} x {images.width} pixels, and crop_mode is not squash'
    if reason:
        raise TargetError(
            f'transformers.js cannot classify photographs with this model: {reason}. Push it without --onnx.')
    return images


def around_model(model: bytes, base: BaseModel, results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Keys that config.json gets besides those of timm and of an artifact, and files by their names: an ONNX model, and
    how photographs become its input.

    Raises:
        TargetError: As of :func:`photograph_input`.
    """
    names = class_names(base.name, base.pretrained_cfg)
    processor = _processor_config(photograph_input(base.pretrained_cfg, results))
    keys = {
        'model_type': _MODEL_TYPE,
        'id2label': {str(index): printable(name, MAX_TEXT) for index, name in enumerate(names)},
        'transformers.js_config': {'dtype': 'fp32'},  # the file without an ending such as _quantized
    }
    return keys, {ONNX_NAME: model, PROCESSOR_NAME: json.dumps(processor, indent=1).encode()}


def _processor_config(images: ImageInput) -> dict[str, Any]:
    height, width = images.resized
    return {
        'image_processor_type': 'BitImageProcessor',  # resizes, crops and normalizes as it is told
        'do_convert_rgb': True,
        'do_resize': True,
        'size': {'height': height, 'width': width} if images.squash else {'shortest_edge': height},
        'resample': _RESAMPLE,
        'do_center_crop': True,
        'crop_size': {'height': images.height, 'width': images.width},
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': images.mean,
        'image_std': images.std,
    }
