"""Accuracy over bytes: ours, and what a user would pick instead, on the same checkpoints in the same run.

    pip install '.[benchmarks]'
    python tests/benchmarks/accuracy_over_bytes.py --data-dir CIFAR10 --weights-56 FILE --nncodec PYTHON

CIFAR10 is a folder with train/CLASS and validation/CLASS; FILE the published ResNet-56 weights; PYTHON the interpreter
of an environment with nncodec (see nncodec_worker.py). Every file is decoded again, and what comes out is measured on
the 10,000 test images, in float32:

- the predictors that ship: both files, config.json included;
- NeRN's configuration at 20 %: float16, trained here with as many steps as --nern-steps says;
- rounding to 3 .. 8 bits by output channel, entropy-coded with the coder that we use, all else in float16;
- trained rounding: the weights that ours generates, rounded by output channel and distilled with the losses of the
  cifar10 recipe for as many steps as --trained-steps says, entropy-coded as ours, all else at 7 bits; no header is
  counted (see rounded_model.py);
- NNCodec (MPEG Neural Network Coding), a sweep of its quantization parameter;
- onnxruntime: static int8 quantization, calibrated on 512 training images.

Prints a table, and writes results/accuracy_over_bytes.json and .png.
"""
import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from common import HERE, RESNET20, draw, rounded_by_channel, value_bytes, write_results
from rounded_model import RoundedModel
from safetensors.torch import load_file
from torch import Tensor

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import CONFIG_NAME, WEIGHTS_NAME, read_config
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.data.accuracy import evaluate
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader, train_batches
from timm_sbs.train import main as train
from timm_sbs.training.options.settings import DistillationSettings
from timm_sbs.training.run.environment import environment
from timm_sbs.training.steps.distillation import distill

NAME = 'accuracy_over_bytes'
QPS = {'resnet20': range(-32, -16, 2), 'resnet56': (-32, -30, -28, -26, -25, -24, -23, -22)}
TRAINED_BITS = {'resnet20': (1.6,), 'resnet56': (1.5,)}
TRAINED_RATE = 5e-4  # the recipe's rate is for predictors
KEPT_BITS = 7  # beside trained rounding, as beside ours
Batches = list[tuple[Tensor, Tensor]]


def top1(model: torch.nn.Module, images: Batches, what: str) -> float:
    return evaluate(model, images, what).top1


def with_state(network: str, state: Mapping[str, Tensor]) -> torch.nn.Module:
    model = timm.create_model(f'{network}_cifar10')
    model.load_state_dict(dict(state), strict=False)
    return model.eval()


def point(method: str, setting: str, size: int, accuracy: float) -> dict[str, Any]:
    print(f'  {method:<22} {setting:<34} {size:>9,} bytes  {accuracy:.2f} %', flush=True)
    return {'method': method, 'setting': setting, 'bytes': size, 'top1': accuracy}


def ours(network: str, images: Batches) -> Iterator[dict[str, Any]]:
    for name in timm.list_models(f'sbs_{network}_*'):
        files = {path.name: path.stat().st_size for path in shipped_folder(name).iterdir()}
        model = timm.create_model(name, pretrained=True).eval()
        yield {**point('ours', name, sum(files.values()), top1(model, images, name)), 'files': files}


def rounded(network: str, state: Mapping[str, Tensor], images: Batches) -> Iterator[dict[str, Any]]:
    for bits in range(8, 2, -1):
        decoded, size = rounded_by_channel(state, bits)
        yield point('rounding + coding', f'{bits} bits by channel', size, top1(
            with_state(network, decoded), images, f'{bits} bits'))


def trained_rounding(
        network: str, state: Mapping[str, Tensor], images: Batches, args: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    original, steps = with_state(network, state), args.trained_steps[network == 'resnet56']
    config, _ = read_config(shipped_folder(timm.list_models(f'sbs_{network}_*')[0]))
    settings = DistillationSettings(
        steps=steps, lr=TRAINED_RATE, feature_weight=(1., 1.), eval_interval=steps)
    for bits in TRAINED_BITS[network]:
        student = RoundedModel(original, list(config.generated), bits, KEPT_BITS)
        batches = train_batches(DataSettings(args.data_dir), original.pretrained_cfg)
        distill(student, original, batches, settings, make_accelerator('bf16'), name=f'{bits} bits')
        decoded, size = student.stored()
        yield point('trained rounding', f'{bits} bits by channel, {steps} steps', size, top1(
            with_state(network, decoded), images, f'{bits} bits'))


def nncodec(network: str, weights: Path, python: str, images: Batches) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        worker = HERE / 'nncodec_worker.py'
        subprocess.run([python, worker, weights, folder, *map(str, QPS[network])], check=True)
        for qp in QPS[network]:
            size = (Path(folder) / f'{qp}.nnc').stat().st_size
            model = with_state(network, load_file(Path(folder) / f'{qp}.safetensors'))
            yield point('NNCodec', f'qp {qp}', size, top1(model, images, f'qp {qp}'))


def onnx_int8(network: str, state: Mapping[str, Tensor], images: Batches, data_dir: str) -> Iterator[dict[str, Any]]:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
            self.batches = batches

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {'images': batch[0].numpy()}

    model = with_state(network, state)
    train = eval_loader(DataSettings(data_dir, val_split='train', batch_size=128), model.pretrained_cfg)
    calibration = [batch for batch, _ in zip(shuffled(train), range(4))]
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder) / 'full.onnx', Path(folder) / 'int8.onnx'
        torch.onnx.export(
            model, (images[0][0],), full, input_names=['images'], output_names=['logits'],
            dynamic_axes={'images': {0: 'batch'}, 'logits': {0: 'batch'}}, dynamo=False)
        quantize_static(
            full, small, Reader(iter(calibration)), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        session = onnxruntime.InferenceSession(small, providers=['CPUExecutionProvider'])
        correct = sum(
            int((session.run(None, {'images': x.numpy()})[0].argmax(1) == y.numpy()).sum()) for x, y in images)
        count = sum(len(y) for _, y in images)
        yield point('onnxruntime int8', 'static, by channel', small.stat().st_size, 100 * correct / count)


def shuffled(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images of all classes, from a data set that is sorted by class."""
    dataset = loader.dataset
    order = np.random.default_rng(0).permutation(len(dataset))
    for start in range(0, len(order), 128):
        samples = [dataset[int(i)] for i in order[start:start + 128]]
        yield torch.stack([torch.as_tensor(x) for x, _ in samples]), torch.tensor([y for _, y in samples])


def nern(network: str, weights: Path, images: Batches, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as out:
        flags = [
            '--model', f'{network}_cifar10', '--initial-checkpoint', str(weights), '--pct', '20',
            '--order-over', 'layer', '--coordinates', 'grid', '--encoding', 'positional', '--activation', 'relu',
            '--data-dir', args.data_dir, '--second-order-steps', '0', '--distillation-steps', str(args.nern_steps),
            '--eval-interval', str(args.nern_steps), '--lr', '3e-4', '--feature-weight', '1',
            '--mixed-precision', 'bf16', '--output', out]
        if train(flags):
            raise SystemExit('training of the NeRN configuration failed')
        size = sum((Path(out) / name).stat().st_size for name in (CONFIG_NAME, WEIGHTS_NAME))
        model = timm.create_model(f'local-dir:{out}', pretrained=True).eval()
        setting = f'20 %, float16, {args.nern_steps} steps'
        yield point("NeRN's configuration", setting, size, top1(model, images, 'NeRN'))


def bytes_at(points: list[Mapping[str, Any]], method: str, accuracy: float) -> Any:
    """Bytes that a method takes for an accuracy: linear between the points of its upper hull, None if it has none."""
    curve = sorted((p['top1'], p['bytes']) for p in points if p['method'] == method)
    above = [size for found, size in curve if found >= accuracy]
    if not above:
        return None
    best_above = min((size, found) for found, size in curve if found >= accuracy)
    below = [(found, size) for found, size in curve if found < accuracy and size < best_above[0]]
    if not below:
        return best_above[0]
    found, size = max(below)
    share = (accuracy - found) / (best_above[1] - found)
    return round(size + share * (best_above[0] - size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True, type=Path)
    parser.add_argument('--nncodec', required=True, metavar='PYTHON')
    parser.add_argument('--nern-steps', type=int, default=300)
    parser.add_argument('--trained-steps', type=int, nargs=2, default=(4000, 600), metavar=('RESNET20', 'RESNET56'))
    parser.add_argument('--without', nargs='*', default=(), help='methods to take from the last results file')
    args = parser.parse_args()
    last = HERE / 'results' / f'{NAME}.json'
    earlier = json.loads(last.read_text())['networks'] if args.without else {}
    networks: dict[str, Any] = {}
    for network, weights in (('resnet20', RESNET20), ('resnet56', args.weights_56)):
        state = {k: v for k, v in load_file(weights).items() if not k.endswith('num_batches_tracked')}
        original = with_state(network, state)
        loader = eval_loader(DataSettings(args.data_dir, batch_size=250), original.pretrained_cfg)
        images = [(x, y) for x, y in loader]
        print(network)
        entry: dict[str, Any] = {'original': point('original', 'float32', value_bytes(load_file(weights)), top1(
            original, images, 'original'))}
        methods = {
            'ours': lambda: ours(network, images),
            'rounding + coding': lambda: rounded(network, state, images),
            'trained rounding': lambda: trained_rounding(network, state, images, args),
            'NNCodec': lambda: nncodec(network, weights, args.nncodec, images),
            'onnxruntime int8': lambda: onnx_int8(network, state, images, args.data_dir),
            "NeRN's configuration": lambda: nern(network, weights, images, args)}
        entry['points'] = []
        for method, measure in methods.items():
            if method in args.without:
                entry['points'] += [p for p in earlier[network]['points'] if p['method'] == method]
            else:
                entry['points'] += list(measure())
        for p in entry['points']:
            if p['method'] == 'ours':
                peer = p['nncodec_bytes_at_its_accuracy'] = bytes_at(entry['points'], 'NNCodec', p['top1'])
                if peer:
                    p['times_smaller_than_nncodec'] = round(peer / p['bytes'], 2)
                    print(f"  {p['setting']}: NNCodec takes {peer:,} bytes for {p['top1']:.2f} %, "
                          f"{peer / p['bytes']:.2f} times as many")
        networks[network] = entry
    results = {
        'command': f'python tests/benchmarks/{NAME}.py --data-dir CIFAR10 --weights-56 FILE --nncodec PYTHON',
        'images': 10_000, 'seed': 0, 'nern_steps': args.nern_steps, 'trained_steps': list(args.trained_steps),
        **environment(torch.device('cpu'), 1),
        'networks': networks}
    write_results(NAME, results)
    draw(NAME)


if __name__ == '__main__':
    main()
