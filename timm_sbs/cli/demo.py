"""The demo: real images and a real predictor, both inside the package, so that nothing has to be downloaded."""
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
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, read_config
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import written_ledger
from timm_sbs.common.errors import SbsError
from timm_sbs.common.results import Results
from timm_sbs.data.accuracy import Accuracy, evaluate
from timm_sbs.predictor.base_model import pretrained_cfg_of

__all__ = [
    'FOLDER', 'DemoImages', 'DemoResult', 'images_missing', 'load_demo_images', 'demo_batches', 'run_demo',
]

FOLDER = Path(__file__).parent / 'demo_data'
SHEET_NAME = 'cifar10_500.png'
INFO_NAME = 'cifar10_500.json'
COLUMNS = 25  # images in a row of the sheet
SIZE = 32  # pixels of an image
BATCH = 100
MODEL = 'sbs_resnet20_cifar10_42pct'


@dataclass(frozen=True)
class DemoImages:
    """Images [N, 32, 32, 3] uint8, their classes, and the original network's figures on them."""
    images: np.ndarray
    labels: list[int]
    class_names: list[str]
    original: dict[str, Any]


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured, and the recorded figures that stand beside it."""
    accuracy: Accuracy
    original: Accuracy
    artifact_bytes: int
    original_bytes: int
    load_seconds: float
    recorded: Results  # the artifact's results on all 10,000 test images


def images_missing(reason: OSError) -> SbsError:
    """The error of an installation without the images of a demo."""
    return SbsError(f'The demo images are missing from this installation: {reason}. Install timm_sbs again.')


def load_demo_images() -> DemoImages:
    """Read the images that ship with the package.

    Raises:
        SbsError: The package is incomplete.
    """
    try:
        info = json.loads((FOLDER / INFO_NAME).read_text(encoding='utf-8'))
        sheet = np.asarray(Image.open(FOLDER / SHEET_NAME).convert('RGB'))
    except OSError as e:
        raise images_missing(e) from e
    rows = sheet.shape[0] // SIZE
    tiles = sheet.reshape(rows, SIZE, COLUMNS, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
    return DemoImages(tiles, info['labels'], info['class_names'], info['original'])


def demo_batches(demo: DemoImages, pretrained_cfg: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """The images as a model with this pretrained_cfg expects them: batches of ([B, 3, 32, 32], [B])."""
    config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    transform = create_transform(**config)
    for start in range(0, len(demo.images), BATCH):
        images = [transform(Image.fromarray(image)) for image in demo.images[start:start + BATCH]]
        yield torch.stack(images), torch.tensor(demo.labels[start:start + BATCH])


def run_demo() -> DemoResult:
    """Create the shipped model, time that, and classify the shipped images."""
    demo = load_demo_images()
    folder = shipped_folder(MODEL)
    if folder is None:
        raise SbsError(f"The predictor '{MODEL}' is missing from this installation. Install timm_sbs again.")
    started = time.perf_counter()
    model = timm.create_model(MODEL, pretrained=True)
    seconds = time.perf_counter() - started
    config, _ = read_config(folder)
    return DemoResult(
        accuracy=evaluate(model, demo_batches(demo, pretrained_cfg_of(model)), 'classifying'),
        original=Accuracy(demo.original['correct'], len(demo.labels)),
        artifact_bytes=sum((folder / name).stat().st_size for name in (CONFIG_NAME, WEIGHTS_NAME)),
        original_bytes=written_ledger(config).original,
        load_seconds=seconds,
        recorded=config.results,
    )
