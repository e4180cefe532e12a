"""Corrupted images, calibration and agreement: the original, ours, and the original rounded to 8 and to 4 bits.

    pip install '.[benchmarks]' albumentations
    python tests/benchmarks/robustness.py --data-dir CIFAR10 --weights-56 FILE

Every fourth of the CIFAR-10 test images, and the same with 12 corruptions of the albumentations library at 3 severities
each, drawn from one seed. For each network: top-1 accuracy, how often it agrees with its original, and the expected
calibration error over 15 bins of confidence. Takes 15 minutes on two threads.
"""
import argparse
import os
from typing import Any

os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'

import albumentations as A
import numpy as np
import timm
import torch
from accuracy_over_bytes import rounded_by_channel
from common import cifar_original, environment, write_results
from timm.data import create_dataset, create_transform, resolve_data_config
from torch import Tensor, nn
from tqdm import tqdm

import timm_sbs  # noqa: F401  (registers models)

EVERY, BINS, BATCH = 4, 15, 250
# Three severities of each.
CORRUPTIONS: dict[str, list[A.BasicTransform]] = {
    'Gaussian noise': [A.GaussNoise(std_range=(s, s), p=1) for s in (0.04, 0.08, 0.12)],
    'shot noise': [A.ShotNoise(scale_range=(s, s), p=1) for s in (0.02, 0.05, 0.1)],
    'salt and pepper': [A.SaltAndPepper(amount=(s, s), p=1) for s in (0.01, 0.03, 0.06)],
    'Gaussian blur': [A.GaussianBlur(blur_limit=0, sigma_limit=(s, s), p=1) for s in (0.5, 0.8, 1.2)],
    'glass blur': [A.GlassBlur(sigma=0.4, max_delta=1, iterations=n, p=1) for n in (1, 2, 3)],
    'motion blur': [A.MotionBlur(blur_limit=(n, n), p=1) for n in (3, 5, 7)],
    'zoom blur': [A.ZoomBlur(max_factor=(s, s), step_factor=(0.02, 0.02), p=1) for s in (1.06, 1.12, 1.2)],
    'snow': [A.RandomSnow(snow_point_range=(s, s), p=1) for s in (0.1, 0.2, 0.3)],
    'brightness': [A.RandomBrightnessContrast((s, s), (0, 0), p=1) for s in (0.1, 0.2, 0.3)],
    'contrast': [A.RandomBrightnessContrast((0, 0), (-s, -s), p=1) for s in (0.2, 0.4, 0.6)],
    'JPEG': [A.ImageCompression(quality_range=(q, q), p=1) for q in (70, 45, 25)],
    'downscale': [A.Downscale(scale_range=(s, s), p=1) for s in (0.8, 0.65, 0.5)],
}


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error in per cent: mean difference of confidence and accuracy, over bins of confidence."""
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).float()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = [(confidence[bins == b] - right[bins == b]).sum().abs() for b in range(BINS)]
    return 100 * float(sum(gaps)) / len(labels)


@torch.inference_mode()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(BATCH)])


def networks(weights_56: str) -> dict[str, dict[str, nn.Module]]:
    """For each architecture: the original first, and what is compared with it."""
    found: dict[str, dict[str, nn.Module]] = {}
    for network in ('resnet20', 'resnet56'):
        base, original = f'{network}_cifar10', cifar_original(network, weights_56)
        members = {'original': original}
        for name in timm.list_models(f'sbs_{base}_*'):
            members[name] = timm.create_model(name, pretrained=True)
        for bits in (8, 4):
            members[f'rounding, {bits} bits'] = timm.create_model(base)
            members[f'rounding, {bits} bits'].load_state_dict(rounded_by_channel(original.state_dict(), bits)[0])
        found[base] = {name: model.eval() for name, model in members.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True)
    args = parser.parse_args()
    dataset = create_dataset('', root=args.data_dir, split='validation')
    samples = [dataset[index] for index in range(0, len(dataset), EVERY)]
    pictures, labels = [np.asarray(image.convert('RGB')) for image, _ in samples], torch.tensor([s[1] for s in samples])
    architectures = networks(args.weights_56)
    cfg = resolve_data_config(pretrained_cfg=architectures['resnet20_cifar10']['original'].pretrained_cfg)
    mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ('mean', 'std'))
    assert type(create_transform(**cfg).transforms[-1]).__name__ == 'Normalize' and cfg['crop_pct'] == 1

    def prepared(images: list[np.ndarray]) -> Tensor:
        return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - mean) / std

    def corrupted(transform: A.BasicTransform) -> Tensor:
        pipeline = A.Compose([transform], seed=0)
        return prepared([pipeline(image=picture)['image'] for picture in pictures])

    sets = {'clean': [None], **CORRUPTIONS}
    rows: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = {}
    with tqdm(total=sum(map(len, sets.values())), unit='set') as progress:
        for corruption, transforms in sets.items():
            for transform in transforms:
                images = prepared(pictures) if transform is None else corrupted(transform)
                for base, members in architectures.items():
                    logits = {name: predictions(model, images) for name, model in members.items()}
                    for name, found in logits.items():
                        predicted = found.argmax(1)
                        rows.setdefault(base, {}).setdefault(name, {}).setdefault(corruption, []).append({
                            'top1': round(100 * float((predicted == labels).float().mean()), 2),
                            'agreement': round(100 * float(
                                (predicted == logits['original'].argmax(1)).float().mean()), 2),
                            'calibration_error': round(calibration_error(found, labels), 2)})
                progress.update()
    summary: dict[str, Any] = {}
    for base, members in rows.items():
        for name, found in members.items():
            spoiled = [row for corruption, severities in found.items() if corruption != 'clean' for row in severities]
            summary.setdefault(base, {})[name] = {
                'clean': found['clean'][0],
                'corrupted': {key: round(float(np.mean([row[key] for row in spoiled])), 2) for key in spoiled[0]}}
            print(base, name, summary[base][name], flush=True)
    write_results('robustness', {
        'command': 'python tests/benchmarks/robustness.py --data-dir CIFAR10 --weights-56 FILE', 'seed': 0,
        'images': len(pictures), 'albumentations': A.__version__, 'summary': summary, 'rows': rows, **environment()})


if __name__ == '__main__':
    main()
