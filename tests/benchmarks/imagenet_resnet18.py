"""ResNet-18 on ImageNet photographs: predictors beside the original, and beside rounding of the original's own weights.

    python tests/benchmarks/imagenet_resnet18.py --images ROOT --weights FILE --statistics FILE NAME=FOLDER ...

ROOT has the ImageFolders 'validation' (1,300 photographs of ImageNet's validation set) and 'validation10' (490 of ten
of its classes), and imagenet_classes.txt, their classes in order. Both are easy samples: figures stand beside the
original's on the same images, and say nothing of the full validation set. FILE are the original's weights, and the
statistics that a run of the trainer leaves in OUTPUT/checkpoints. Each NAME=FOLDER is an artifact. Parts:

- artifacts: top-1, top-5 and agreement with the original, and bytes of both files;
- blocks: the first artifact, with the weights of a single residual block generated and all others the original's, and
  the other way round; errors of the weights by layer;
- kept: the first artifact with its kept tensors, most of them the classifier's, rounded to fewer bits, not trained;
- rounding: the original's weights rounded by output channel, entropy-coded with the coder that we use, all else as
  float16: to the nearest, and by second order (each column's error is made up for by the columns after it, as in GPTQ,
  arXiv 2210.17323, with our statistics), both also with biases and BatchNorm means corrected;
- coded: the same with steps for so many bits of entropy and no limit of levels, corrected;
- trained: the original's weights rounded by output channel to as many bits as fit the first artifact's bytes, with
  biases and means corrected, and then distilled with the recipe's images, mixtures, sizes, losses and steps, at rates
  of its own (--trained-rates), each with all else at 8 bits, entropy-coded, without any header (see rounded_model.py);
- nncodec: NNCodec (see nncodec_worker.py), with --nncodec PYTHON.

Results are written after every figure to results/imagenet_resnet18.json, whose other parts stay. A figure takes about
two minutes on one CPU thread.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
from common import HERE, value_bytes, write_results
from imagenet_photographs import Figures, Photographs, recipe_flags, with_state
from rounded_model import RoundedModel
from rounded_rows import rounded_rows, steps_of_entropy, steps_of_levels
from torch import Tensor, nn

from timm_sbs.artifact.folder import artifact_bytes, artifact_ledger, load_artifact
from timm_sbs.artifact.original import load_original
from timm_sbs.codec.entropy import encode_integers
from timm_sbs.codec.kept import stored_kept
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.loaders import train_batches
from timm_sbs.data.mixing import ImageMixer
from timm_sbs.predictor.generator import relative_error
from timm_sbs.training.design.sizing import design
from timm_sbs.training.losses.divergence import ExpectedDivergence
from timm_sbs.training.losses.statistics import LayerStatistics, statistics_from_tensors
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import parse_args
from timm_sbs.training.options.run_settings import settings_of
from timm_sbs.training.options.settings import SecondOrderSettings
from timm_sbs.training.run.calibration import SEEN, corrected_kept, trace_uses
from timm_sbs.training.run.environment import environment
from timm_sbs.training.run.precision import settle_precision
from timm_sbs.training.steps.distillation import distill
from timm_sbs.training.steps.monitor import Monitor

NAME = 'imagenet_resnet18'
ROUNDING_BITS = (4, 3)
CODED_BITS = (2.7, 1.75)
KEPT_BITS = (6, 5, 4)
QPS = (-32, -28, -24, -20)


def block_of(name: str) -> str:
    return '.'.join(name.split('.')[:2])


def blocks(
        original: nn.Module, generated: nn.Module, names: list[str], measure: Callable[[nn.Module], Figures],
) -> Iterator[dict[str, Any]]:
    """Figures with one block's generated weights, and with all but those."""
    state = generated.state_dict()
    for block in dict.fromkeys(map(block_of, names)):
        inside = {name: state[name] for name in names if block_of(name) == block}
        outside = {name: original.get_parameter(name) for name in inside}
        yield {
            'block': block, 'weights': sum(weight.numel() for weight in inside.values()),
            'errors': {name: round(relative_error({name: weight}, outside), 4) for name, weight in inside.items()},
            'only': measure(with_state(original, inside)), 'all_but': measure(with_state(generated, outside))}


def kept(folder: Path, measure: Callable[[nn.Module], Figures]) -> Iterator[dict[str, Any]]:
    """An artifact with fewer bits for its kept tensors."""
    artifact, model = load_artifact(folder), timm.create_model(f'local-dir:{folder}', pretrained=True)
    for bits in KEPT_BITS:
        quantization = replace(artifact.storage.quantization, kept_bits=bits)
        coarser = artifact.quantized(quantization)
        rounded = stored_kept(artifact.kept, coarser.storage, artifact.base.norm_eps)
        yield {'bits': bits, 'kept_bytes': artifact_ledger(coarser)['kept'], **measure(with_state(model, rounded))}


def rounding(
        original: nn.Module, moments: Mapping[str, LayerStatistics], divergence: ExpectedDivergence,
        measure: Callable[[nn.Module], Figures], steps_of: Callable[..., tuple[Tensor, float]], rates: Sequence[float],
        only_corrected: bool = False,
) -> Iterator[dict[str, Any]]:
    """All weights with at least two axes rounded; the classifier and the stem to 6 bits or more, to the nearest."""
    matrices = {name: tensor for name, tensor in original.state_dict().items() if tensor.dim() > 1}
    others = sum(tensor.numel() for tensor in original.state_dict().values() if tensor.dim() == 1)
    for bits in rates:
        for how in ('nearest', 'second order'):
            decoded, arrays, size = {}, [], 2 * others
            for name, weight in matrices.items():
                rows = weight.flatten(1)
                steps, limit = steps_of(rows, bits) if name in moments else steps_of_levels(rows, max(int(bits), 6))
                integers = rounded_rows(rows, steps, limit, moments.get(name) if how == 'second order' else None)
                decoded[name] = (integers * steps).view_as(weight)
                arrays.append(integers.long().numpy())
                size += 2 * len(integers)
            generated = {name: decoded[name] for name in moments}
            model = with_state(original, decoded)
            corrected = measure(with_state(model, corrected_kept(original, divergence, generated)))
            row = {'bits': bits, 'how': how, 'bytes': len(encode_integers(arrays)) + size,
                   'expected_divergence': divergence.total(generated), 'corrected': corrected}
            yield row if only_corrected else {**row, **measure(model)}


class LossMonitor(Monitor):
    """Keeps the losses that are logged."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.losses.append(metrics['loss'])


def trained_rounding(
        original: nn.Module, divergence: ExpectedDivergence, names: list[str], max_bytes: int,
        args: argparse.Namespace, measure: Callable[[nn.Module], Figures],
) -> Iterator[dict[str, Any]]:
    """Weights rounded by channel and trained as the recipe trains predictors."""
    settings = settings_of(parse_args(build_parser(), [
        *recipe_flags(args.images), '--model', '', '--output', '', '--distillation-steps', str(args.trained_steps)]))
    kept_bits = settings.quantization.kept_bits

    def rounded(model: nn.Module, bits: float) -> RoundedModel:
        return RoundedModel(model, names, bits, kept_bits, train_statistics=False)

    bits = next(bits for bits in (step / 16 for step in range(96, 16, -1))
                if rounded(original, bits).stored()[1] <= max_bytes)
    start, _ = rounded(original, bits).stored()
    corrected = with_state(original, corrected_kept(original, divergence, {name: start[name] for name in names}))
    for rate in args.trained_rates:
        phase = replace(settings.distillation, steps=args.trained_steps, eval_interval=args.trained_steps, lr=rate)
        student = rounded(corrected, bits)
        decoded, size = student.stored()
        row = {'bits': bits, 'lr': rate, 'steps': args.trained_steps,
               'start': {'bytes': size, **measure(with_state(original, decoded))}}
        accelerator = make_accelerator(settle_precision('auto').precision)
        batches = train_batches(settings.data, original.pretrained_cfg)
        mixer = ImageMixer(settings.data.mixup, settings.data.cutmix, 1000, labelled=False)
        monitor = LossMonitor()
        started = time.perf_counter()
        distill(student, original, batches, phase, accelerator, monitor, name=f'{bits} bits, rate {rate}', mixer=mixer)
        row.update(seconds=round(time.perf_counter() - started, 1), loss=round(statistics.mean(monitor.losses[-5:]), 4))
        decoded, size = student.stored()
        yield {**row, 'bytes': size, **measure(with_state(original, decoded))}


def nncodec(
        original: nn.Module, weights: Path, python: str, measure: Callable[[nn.Module], Figures],
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for qp in QPS:
            subprocess.run([python, HERE / 'nncodec_worker.py', weights, folder, str(qp)], check=True)
            model = with_state(original, safetensors.torch.load_file(Path(folder) / f'{qp}.safetensors'))
            yield {'qp': qp, 'bytes': (Path(folder) / f'{qp}.nnc').stat().st_size, **measure(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path)
    parser.add_argument('--weights', type=Path)
    parser.add_argument('--statistics', type=Path)
    parser.add_argument('--nncodec', metavar='PYTHON')
    parser.add_argument('--parts', nargs='+', default=['artifacts'],
                        choices=['artifacts', 'blocks', 'kept', 'rounding', 'coded', 'trained', 'nncodec'])
    parser.add_argument('--trained-steps', type=int, default=1000)
    parser.add_argument('--trained-rates', type=float, nargs='+', default=[1e-4])
    parser.add_argument('artifacts', nargs='*', metavar='NAME=FOLDER')
    args = parser.parse_args()
    path = HERE / 'results' / f'{NAME}.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    original = load_original('resnet18.tv_in1k', str(args.weights))
    photographs = Photographs(args.images, original)
    results.update(
        command='python tests/benchmarks/imagenet_resnet18.py --images ROOT --weights FILE --statistics FILE '
                'NAME=FOLDER ...', seed=0,
        original={'bytes': value_bytes(original.state_dict()), **photographs.original}, **environment())
    artifacts = dict(pair.split('=', 1) for pair in args.artifacts)

    def note(part: str, rows: Iterator[dict[str, Any]]) -> None:
        found: list[dict[str, Any]] = []
        for row in rows:
            print(part, row, flush=True)
            found.append(row)
            write_results(NAME, {**results, part: found})
        results[part] = found

    def measured() -> Iterator[dict[str, Any]]:
        yield from (row for row in results.get('artifacts', []) if row['name'] not in artifacts)
        for name, folder in artifacts.items():
            model = timm.create_model(f'local-dir:{folder}', pretrained=True)
            yield {'name': name, 'bytes': artifact_bytes(Path(folder)), **photographs.measure(model)}

    if 'artifacts' in args.parts:
        note('artifacts', measured())
    specs = design(original, pct=15.).specs
    names = [spec.name for spec in specs]
    if 'blocks' in args.parts:
        generated = timm.create_model(f'local-dir:{next(iter(artifacts.values()))}', pretrained=True)
        note('blocks', blocks(original, generated, names, lambda m: photographs.measure(m, ['validation'])))
    if 'kept' in args.parts:
        note('kept', kept(Path(next(iter(artifacts.values()))), photographs.measure))
    if {'rounding', 'coded', 'trained'} & {*args.parts}:
        tensors = safetensors.torch.load_file(args.statistics)
        tensors.pop(SEEN)
        moments = statistics_from_tensors(tensors)
        divergence = ExpectedDivergence(
            specs, original.state_dict(), trace_uses(original, original.pretrained_cfg, specs), moments,
            SecondOrderSettings.damping)
        if 'rounding' in args.parts:
            note('rounding', rounding(
                original, moments, divergence, photographs.measure, steps_of_levels, ROUNDING_BITS))
        if 'coded' in args.parts:
            note('coded', rounding(
                original, moments, divergence, photographs.measure, steps_of_entropy, CODED_BITS, only_corrected=True))
        if 'trained' in args.parts:
            size = artifact_bytes(Path(next(iter(artifacts.values()))))
            note('trained', trained_rounding(original, divergence, names, size, args, photographs.measure))
    if 'nncodec' in args.parts:
        note('nncodec', nncodec(original, args.weights, args.nncodec, photographs.measure))


if __name__ == '__main__':
    main()
