"""Write timm_sbs/cli/demo_data: the first 50 CIFAR-10 test images of each class, as one lossless sheet.

    python tests/data/make_demo_images.py CIFAR10

CIFAR10 is an ImageFolder with a 'validation' split whose file names sort in the order of the published test set.
The figure of the original network is measured here, with tests/data/resnet20_cifar10.safetensors.
"""
import json
import sys
from pathlib import Path

import numpy as np
import timm
from PIL import Image

import timm_sbs
from timm_sbs.cli.demo import COLUMNS, FOLDER, INFO_NAME, SHEET_NAME, demo_batches, load_demo_images
from timm_sbs.data.accuracy import evaluate

PER_CLASS = 50
ORIGINAL = Path(__file__).parent / 'resnet20_cifar10.safetensors'


def main(cifar10: Path) -> None:
    class_names = sorted(folder.name for folder in (cifar10 / 'validation').iterdir())
    files = [
        (file, label) for label, name in enumerate(class_names)
        for file in sorted((cifar10 / 'validation' / name).iterdir())[:PER_CLASS]]
    tiles = np.stack([np.asarray(Image.open(file).convert('RGB')) for file, _ in files])
    size = tiles.shape[1]
    sheet = tiles.reshape(-1, COLUMNS, size, size, 3).swapaxes(1, 2).reshape(-1, COLUMNS * size, 3)
    FOLDER.mkdir(exist_ok=True)
    Image.fromarray(sheet).save(FOLDER / SHEET_NAME, optimize=True)
    info = {
        'source': 'CIFAR-10 test set (A. Krizhevsky, 2009), the first 50 images of each class',
        'class_names': class_names,
        'labels': [label for _, label in files],
        'original': {'model': 'resnet20_cifar10', 'correct': 0},
    }
    (FOLDER / INFO_NAME).write_text(json.dumps(info) + '\n')
    original = timm.create_model('resnet20_cifar10', checkpoint_path=ORIGINAL)
    images = load_demo_images()
    info['original']['correct'] = evaluate(original, demo_batches(images, original.pretrained_cfg)).correct
    (FOLDER / INFO_NAME).write_text(json.dumps(info) + '\n')
    print(timm_sbs.__version__, info['original'])


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
