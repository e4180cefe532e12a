"""Networks of several families, made small by the same commands: what they keep, and which layers lose most.

    python tests/benchmarks/families.py --network NAME --weights FILE --data-dir FOLDER --output FOLDER

NAME and FILE are those of originals.py, and so is --data-dir. Every network is fitted in four ways: predictors of 20
and of 10 % of its parameters, and weights rounded so that both files take 2 and 1.2 bits for each of its values. All of
them have the same optimization steps. --embedding fits the network without its classifier instead, and measures
recall@1: how often the nearest of the other test images, by cosine similarity, has the same class.

A run that was stopped goes on from its last checkpoint, and what the results file has is not fitted again. Results
are written after every fit, each of which takes about half an hour on one CPU thread.
"""
import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import timm
import torch
from common import (
    Batches,
    artifact_sizes,
    environment,
    minutes_of,
    percent,
    predictions,
    read_results,
    replaced,
    resumption,
    validation_batches,
    value_bytes,
    write_results,
)
from originals import ORIGINALS, load_original
from torch import Tensor, nn
from torch.nn import functional as F

import timm_sbs

NAME, STEPS = 'families', 1000
PREDICTORS, BITS = (20, 10), (2., 1.2)


def fields_of(size: str, original: nn.Module) -> dict[str, Any]:
    """Arguments of :func:`timm_sbs.fit` for '20 %' or '2 bits'."""
    number, unit = size.split()
    if unit == '%':
        return dict(config='cifar10', pct=float(number))
    return dict(config='cifar10_rounding', bytes=round(float(number) * value_bytes(original.state_dict()) / 32))


def kind_of(module: nn.Module) -> str:
    """Of a layer, as tables call it."""
    if not isinstance(module, nn.Conv2d):
        return 'linear'
    if module.groups > 1:
        return 'depthwise' if module.groups == module.in_channels else 'grouped'
    return '1x1' if module.kernel_size == (1, 1) else 'larger kernels'


def errors_by_kind(artifact: timm_sbs.Artifact, original: nn.Module) -> dict[str, dict[str, float]]:
    """Of each kind of layer: values that are generated or rounded, and their squared error over their squared norm."""
    found, expected = artifact.state_dict(), original.state_dict()
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3))
    for name in (*artifact.generator.names, *artifact.rounded):
        kind = kind_of(original.get_submodule(name.rpartition('.')[0]))
        error = found[name] - expected[name]
        sums[kind] += torch.stack([torch.tensor(float(error.numel())), error.square().sum(),
                                   expected[name].square().sum()])
    return {kind: {'values': int(count), 'error': round(float(error / norm), 4)}
            for kind, (count, error, norm) in sums.items()}


@torch.inference_mode()
def recall(model: nn.Module, batches: Batches) -> float:
    """Recall@1 of an embedding, per cent."""
    features = F.normalize(torch.cat([model(images) for images, _ in batches]), dim=1)
    labels = torch.cat([labels for _, labels in batches])
    nearest = []
    for own in torch.arange(len(features)).split(1000):
        similarities = features[own] @ features.T
        similarities[range(len(own)), own] = -1  # an image is not its own neighbour
        nearest.append(similarities.argmax(1))
    return percent(labels[torch.cat(nearest)] == labels)


class Family:
    """One network, and what is measured of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.name = args, f'{args.network} embedding' if args.embedding else args.network
        self.original = load_original(args.network, args.weights)
        self.batches = validation_batches(args.data_dir, self.original)
        self.expected = predictions(self.original, self.batches)
        if args.embedding:
            self.original.reset_classifier(0)

    def figures(self, model: nn.Module) -> dict[str, float]:
        if self.args.embedding:
            return {'recall': recall(model, self.batches)}
        found = predictions(model, self.batches)
        return {'top1': percent(found == torch.cat([labels for _, labels in self.batches])),
                'agreement': percent(found == self.expected)}

    def record(self, row: dict[str, Any]) -> None:
        row = {'network': self.name, 'data_set': ORIGINALS[self.args.network].data_set, **row}
        print(row, flush=True)
        write_results(NAME, {
            'command': f'python tests/benchmarks/{NAME}.py --network NAME --weights FILE --data-dir FOLDER '
                       f'--output FOLDER', 'seed': 0, 'steps': STEPS,
            'rows': replaced(read_results(NAME).get('rows', []), row, 'network', 'size'), **environment()})

    def fit(self, size: str) -> None:
        folder = self.args.output / f'{self.name} {size}'.replace(' ', '_')
        artifact = timm_sbs.fit(
            self.original, **fields_of(size, self.original), distillation_steps=STEPS, output=folder,
            checkpointing_steps=200, resume=resumption(folder),
            images=self.args.data_dir / 'train')
        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        self.record({
            'size': size, **artifact_sizes(folder), 'minutes': minutes_of(folder), **self.figures(model),
            'holdout_divergence': artifact.results['holdout_divergence'],
            'layers': errors_by_kind(artifact, self.original)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=[*ORIGINALS], required=True)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--data-dir', type=Path, required=True)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--embedding', action='store_true')
    args = parser.parse_args()
    family = Family(args)
    measured = {(row['network'], row['size']) for row in read_results(NAME).get('rows', [])}
    family.record({'size': 'original', 'bytes': value_bytes(family.original.state_dict()),
                   **family.figures(family.original)})
    for size in (*(f'{pct} %' for pct in PREDICTORS), *(f'{bits:g} bits' for bits in BITS)):
        if (family.name, size) not in measured:
            family.fit(size)


if __name__ == '__main__':
    main()
