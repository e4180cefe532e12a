"""``timm-sbs demo``: shipped artifacts classify shipped images, and nothing has to be downloaded."""
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from torch import Tensor, nn

from timm_sbs.artifact.files import artifact_bytes, read_config
from timm_sbs.artifact.find import find_folder
from timm_sbs.artifact.ledger import sizes
from timm_sbs.data.accuracy import Accuracy, evaluate
from timm_sbs.predictor.base_model import pretrained_cfg_of

__all__ = ['FOLDER', 'DemoImages', 'load_demo_images', 'demo_batches', 'classify_images', 'classify_photographs']

FOLDER = Path(__file__).parent / 'demo_data'
SHEET_NAME, INFO_NAME = 'cifar10_500.png', 'cifar10_500.json'
COLUMNS = 25  # images in a row of the sheet
SIZE = 32  # pixels of an image
BATCH = 100
MODEL = 'sbs_resnet20_cifar10_20pct'
IMAGENET_MODEL = 'sbs_resnet18_15pct'

Predictions = tuple[tuple[str, float], ...]  # names of classes and their probabilities, the most probable first


@dataclass(frozen=True)
class DemoImages:
    """Images [N, 32, 32, 3] uint8, their classes, and what the original network has been measured to do on them."""
    images: np.ndarray
    labels: list[int]
    class_names: list[str]
    original: dict[str, Any]


def load_demo_images() -> DemoImages:
    """The 500 CIFAR-10 test images that are shipped with the package."""
    info = json.loads((FOLDER / INFO_NAME).read_text(encoding='utf-8'))
    sheet = np.asarray(Image.open(FOLDER / SHEET_NAME).convert('RGB'))
    tiles = sheet.reshape(-1, SIZE, COLUMNS, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
    return DemoImages(tiles, info['labels'], info['class_names'], info['original'])


def demo_batches(demo: DemoImages, pretrained_cfg: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """The images as a model with this pretrained_cfg expects them: batches of ([B, 3, 32, 32], [B])."""
    transform = create_transform(**resolve_data_config(pretrained_cfg=dict(pretrained_cfg)))
    for start in range(0, len(demo.images), BATCH):
        images = [transform(Image.fromarray(image)) for image in demo.images[start:start + BATCH]]
        yield torch.stack(images), torch.tensor(demo.labels[start:start + BATCH])


def classify_images() -> Accuracy:
    """Create the shipped ResNet-20, classify the shipped images, print the result beside the original's, and return it.
    """
    demo, (model, seconds) = load_demo_images(), _created(MODEL)
    accuracy = evaluate(model, demo_batches(demo, pretrained_cfg_of(model)), 'classifying')
    original = Accuracy(demo.original['correct'], len(demo.labels))
    folder = find_folder(MODEL)
    config, _ = read_config(folder)
    recorded, size, original_size = config.results, artifact_bytes(folder), sizes(config.ledger)['original']
    print(f'{MODEL}, created from the predictor inside the package in {1000 * seconds:.0f} ms')
    for label, before, after in (
            ('', 'original', 'generated'),
            (f'accuracy on these {accuracy.images} images', f'{original.top1:.1f} %', f'{accuracy.top1:.1f} %'),
            (f"accuracy on {recorded['images']:,} images (recorded)", f"{recorded['original_top1']:.2f} %",
             f"{recorded['top1']:.2f} %"),
            ('bytes', f'{original_size:,}', f'{size:,} ({original_size / size:.1f} times smaller)')):
        print(f'  {label:<38}  {before:>10}  {after:>10}')
    return accuracy


@torch.inference_mode()
def classify_photographs() -> dict[str, tuple[Predictions, Predictions]]:
    """Create the shipped ResNet-18, and print and return what it sees in the shipped photographs, by their titles: the
    original's five most probable classes, which are recorded, and its own.

    Example:
        >>> original, generated = classify_photographs()['A cat']  # doctest: +ELLIPSIS
        sbs_resnet18_15pct, created from ...
        >>> generated[0][0]
        'Egyptian cat'
    """
    entries = json.loads((FOLDER / 'photographs.json').read_text(encoding='utf-8'))['photographs']
    model, seconds = _created(IMAGENET_MODEL)
    cfg, classes, found = pretrained_cfg_of(model), ImageNetInfo(), {}
    transform = create_transform(**resolve_data_config(pretrained_cfg=cfg))
    images = [transform(Image.open(FOLDER / entry['file']).convert('RGB')) for entry in entries]
    top = model(torch.stack(images)).softmax(dim=1).topk(5)
    print(f'{IMAGENET_MODEL}, created from the predictor inside the package in {1000 * seconds:.0f} ms '
          f"(licence: {cfg.get('license')})")
    for entry, values, indices in zip(entries, top.values.tolist(), top.indices.tolist()):
        original, generated = (tuple((classes.index_to_description(index).split(',')[0], probability)
                                     for index, probability in pairs)
                               for pairs in (entry['original'], zip(indices, values)))
        found[entry['title']] = original, generated
        print(f"  {entry['title']} ({entry['source']})\n    {'original':<32}  generated")
        for (name, probability), (own_name, own_probability) in zip(original, generated):
            print(f'    {name:<24} {100 * probability:5.1f} %  {own_name:<24} {100 * own_probability:5.1f} %')
    return found


def _created(name: str) -> tuple[nn.Module, float]:
    """A shipped model in eval mode, and the seconds that creating it took."""
    started = time.perf_counter()
    model = timm.create_model(name, pretrained=True).eval()
    return model, time.perf_counter() - started
