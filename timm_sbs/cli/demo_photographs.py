"""The demo's second part: photographs and an ImageNet predictor, both inside the package."""
import json
import time
from collections.abc import Iterable

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_data_config

from timm_sbs.cli.demo import FOLDER, images_missing
from timm_sbs.plots.predictions import Photograph, Predictions
from timm_sbs.predictor.base_model import pretrained_cfg_of

__all__ = ['classify_photographs']

INFO_NAME = 'photographs.json'
MODEL = 'sbs_resnet18_15pct'


@torch.inference_mode()
def classify_photographs() -> tuple[list[Photograph], float]:
    """Create the shipped ImageNet model and classify the shipped photographs.

    Returns:
        The photographs with their predictions, and the seconds that creating the model took.

    Raises:
        SbsError: The package is incomplete.

    Example:
        >>> photographs, seconds = classify_photographs()
        >>> photographs[0].generated[0][0]
        'Egyptian cat'
    """
    try:
        entries = json.loads((FOLDER / INFO_NAME).read_text(encoding='utf-8'))['photographs']
        images = [Image.open(FOLDER / entry['file']).convert('RGB') for entry in entries]
    except OSError as e:
        raise images_missing(e) from e
    started = time.perf_counter()
    model = timm.create_model(MODEL, pretrained=True).eval()
    seconds = time.perf_counter() - started
    transform = create_transform(**resolve_data_config(pretrained_cfg=pretrained_cfg_of(model)))
    top = model(torch.stack([transform(image) for image in images])).softmax(dim=1).topk(5)
    classes = ImageNetInfo()
    return [
        Photograph(
            entry['title'], entry['source'], FOLDER / entry['file'],
            original=_named(entry['original'], classes),
            generated=_named(zip(indices.tolist(), values.tolist()), classes))
        for entry, values, indices in zip(entries, top.values, top.indices)], seconds


def _named(predictions: Iterable[tuple[int, float]], classes: ImageNetInfo) -> Predictions:
    return tuple(
        (classes.index_to_description(index).split(',')[0], probability) for index, probability in predictions)
