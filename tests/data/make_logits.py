"""Record the logits of the shipped predictors on the demo's first images, for tests/models/test_entries.py.

    python tests/data/make_logits.py

To be run where a predictor is replaced, never to make the test pass.
"""
import json
import sys
from pathlib import Path

import timm
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from conftest import CIFAR_ALL

from timm_sbs.cli.demo import demo_batches, load_demo_images

IMAGES = 8


def main() -> None:
    images, _ = next(demo_batches(load_demo_images(), timm.get_pretrained_cfg('resnet20_cifar10').to_dict()))
    recorded = {}
    with torch.inference_mode():
        for name in CIFAR_ALL:
            logits = timm.create_model(name, pretrained=True).eval()(images[:IMAGES])
            recorded[name] = [[round(value, 6) for value in row] for row in logits.tolist()]
    (Path(__file__).parent / 'logits.json').write_text(json.dumps(recorded, indent=1) + '\n')


if __name__ == '__main__':
    main()
