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

from timm_sbs.artifact.folder import load
from timm_sbs.data.accuracy import Accuracy, evaluate
from timm_sbs.predictor.pretrained_cfg import pretrained_cfg_of

__all__ = ['FOLDER', 'DemoImages', 'load_demo_images', 'demo_batches', 'classify_images', 'classify_photographs']

FOLDER = Path(__file__).parent / 'demo_data'
SHEET_NAME, INFO_NAME = 'cifar10_500.png', 'cifar10_500.json'
COLUMNS = 25  # images in a row of the sheet
SIZE = 32  # pixels of an image
BATCH = 100
MODEL = 'sbs_resnet20_cifar10_20pct'
IMAGENET_MODEL = 'sbs_tf_efficientnet_lite0_1500kb'


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


def classify_images() -> None:
    """Create the shipped ResNet-20, classify the shipped images, and print the result beside the original's."""
    demo, artifact, model = load_demo_images(), load(MODEL), _created(MODEL)
    accuracy = evaluate(model, demo_batches(demo, pretrained_cfg_of(model)), 'classifying')
    original = Accuracy(demo.original['correct'], len(demo.labels))
    recorded, sizes = artifact.results, artifact.ledger()
    for label, before, after in (
            ('', 'original', 'artifact'),
            (f'accuracy on these {accuracy.images} images', f'{original.top1:.1f} %', f'{accuracy.top1:.1f} %'),
            (f"accuracy on {recorded['images']:,} images (recorded)", f"{recorded['original_top1']:.2f} %",
             f"{recorded['top1']:.2f} %"),
            ('bytes', f"{sizes['original']:,}",
             f"{sizes['total']:,} ({sizes['original'] / sizes['total']:.1f} times smaller)")):
        print(f'  {label:<38}  {before:>10}  {after:>10}')


@torch.inference_mode()
def classify_photographs() -> None:
    """Create the shipped EfficientNet-Lite0, and print the five most probable classes of each shipped photograph: the
    original's, which are recorded, and its own."""
    entries = json.loads((FOLDER / 'photographs.json').read_text(encoding='utf-8'))['photographs']
    model, classes = _created(IMAGENET_MODEL), ImageNetInfo()
    transform = create_transform(**resolve_data_config(pretrained_cfg=pretrained_cfg_of(model)))
    images = [transform(Image.open(FOLDER / entry['file']).convert('RGB')) for entry in entries]
    top = model(torch.stack(images)).softmax(dim=1).topk(5)
    for entry, *generated in zip(entries, top.indices.tolist(), top.values.tolist()):
        print(f"  {entry['title']} ({entry['source']})\n    {'original':<32}  artifact")
        for pair in zip(entry['original'], zip(*generated)):
            names = [classes.index_to_description(index).split(',')[0] for index, _ in pair]
            print('    ' + '  '.join(f'{name:<24} {100 * chance:5.1f} %' for name, (_, chance) in zip(names, pair)))


def _created(name: str) -> nn.Module:
    """A shipped model in eval mode. Prints the time that creating it took."""
    started = time.perf_counter()
    model = timm.create_model(name, pretrained=True).eval()
    print(f'{name}, created from its file inside the package in {1000 * (time.perf_counter() - started):.0f} ms '
          f"(licence: {pretrained_cfg_of(model).get('license')})")
    return model
