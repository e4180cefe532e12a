"""What transformers.js reads beside an ONNX model in a repository of the Hub, so that it classifies as timm does.

transformers.js finds out by config.json which classes there are, and by preprocessor_config.json how photographs become
the model's input. Both are made for its own source: ``src/image_processors_utils.js`` and ``src/utils/image.js``.
"""
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import resolve_data_config

from timm_sbs.artifact.files import ONNX_NAME, PROCESSOR_NAME
from timm_sbs.artifact.labels import MAX_TEXT, class_names
from timm_sbs.common.errors import TargetError, printable
from timm_sbs.predictor.base_model import BaseModel

__all__ = ['ImageInput', 'around_model', 'image_input']

# Any type with which transformers.js classifies images would do: it runs them all alike. Python's transformers does not
# know this one, and says so; of a type that it knows, it can make a network of random weights.
_MODEL_TYPE = 'mobilenet_v4'
# Lanczos, whatever the artifact's interpolation is: of transformers.js' filters in Node, it is the only one that does
# not leave out pixels where a photograph is shrunk, and so is nearest to Pillow's. Browsers have a filter of their own.
_RESAMPLE = 1
_FILTERS = ('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming')  # of Pillow
_MOST_SIDE = 4096  # pixels of a resized photograph


@dataclass(frozen=True)
class ImageInput:
    """How timm makes an evaluated network's input of a photograph.

    Attributes:
        height: Of the input, which is cut out of the middle, with its width.
        resized: Height and width that a photograph is resized to; where it keeps its proportions, they are equal, and
            its shorter side gets this length.
        squash: Whether it does not keep its proportions.
        interpolation: Name of the filter.
        mean: Of each channel, with ``std``.
    """
    height: int
    width: int
    resized: tuple[int, int]
    squash: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def image_input(pretrained_cfg: Mapping[str, Any]) -> ImageInput:
    """How timm evaluates the network of a description.

    Raises:
        TargetError: It has no classes, or its input is made in a way that transformers.js does not have.

    Example:
        >>> image_input({'input_size': (3, 224, 224), 'num_classes': 10, 'crop_pct': .875}).resized
        (256, 256)
    """
    if not pretrained_cfg.get('num_classes'):
        raise TargetError('transformers.js would have no classes to name (num_classes is 0). Push it without onnx.')
    found = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    (channels, height, width), crop_pct = found['input_size'], found['crop_pct']
    mean, std = (tuple(found[name]) * (3 if len(found[name]) == 1 else 1) for name in ('mean', 'std'))
    refused = None
    if not channels == len(mean) == len(std) == 3:
        refused = f'images of {channels} channels, with mean {mean} and std {std}'
    elif not (0 < crop_pct <= min(height, width) and max(height, width) / crop_pct <= _MOST_SIDE):
        refused = f'crop_pct {crop_pct} (photographs of at most {_MOST_SIDE} pixels)'
    elif found['interpolation'] not in _FILTERS:
        refused = f"interpolation '{found['interpolation']}'"
    elif found['crop_mode'] == 'border':
        refused = "crop_mode 'border'"
    elif found['crop_mode'] != 'squash' and height != width:
        refused = f'images of {height} x {width} pixels, unless crop_mode is squash'
    if refused:
        raise TargetError(f'transformers.js does not know {refused}. Push it without onnx.')
    return ImageInput(
        height, width, (math.floor(height / crop_pct), math.floor(width / crop_pct)), found['crop_mode'] == 'squash',
        found['interpolation'], mean, std)


def around_model(model: bytes, base: BaseModel) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Keys that config.json gets besides those of timm and of an artifact, and files by their names: an ONNX model, and
    how photographs become its input.

    Raises:
        TargetError: As of :func:`image_input`.
    """
    names = class_names(base.name, base.pretrained_cfg)
    processor = _processor_config(image_input(base.pretrained_cfg))
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
