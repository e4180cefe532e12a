"""Accuracy over bytes on CIFAR-10 of what a user would pick instead, on the same checkpoints (ours: frontier.py).

    pip install '.[benchmarks]'
    python tests/benchmarks/accuracy_over_bytes.py --data-dir CIFAR10 --weights-56 FILE --nncodec PYTHON

CIFAR10 is a folder with train/CLASS and validation/CLASS; FILE the published ResNet-56 weights; PYTHON the interpreter
of an environment with nncodec (see nncodec_worker.py). Every file is decoded again, and what comes out is measured on
the 10,000 test images, in float32:

- rounding to 3 .. 8 bits by output channel, entropy-coded, all else in float16;
- NNCodec (MPEG Neural Network Coding), a sweep of its quantization parameter;
- onnxruntime: static int8 quantization, calibrated on 512 training images;
- NeRN's configuration at 20 %: float16, trained here with as many optimization steps as --nern-steps says.

Prints a table, and writes results/accuracy_over_bytes.json; pictures.py draws it.
"""
import argparse
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    NERN,
    RESNET20,
    artifact_sizes,
    cifar_original,
    coded_by_nncodec,
    environment,
    top1,
    validation_batches,
    value_bytes,
    write_results,
)
from safetensors.torch import load_file
from torch import Tensor, nn

import timm_sbs
from timm_sbs.codec.streams import Integers

NAME = 'accuracy_over_bytes'
QPS = {'resnet20': range(-32, -16, 2), 'resnet56': (-32, -30, -28, -26, -25, -24, -23, -22)}
CALIBRATION = 512  # images


def entropy_bytes(arrays: Iterable[Integers]) -> int:
    """Bytes of integers that are coded by how often each value comes in its array, and of these counts: one for each.
    """
    counts = [np.unique(array, return_counts=True)[1] for array in arrays]
    return math.ceil(sum((found * np.log2(found.sum() / found)).sum() / 8 + len(found) for found in counts))


def rounded_by_channel(state: Mapping[str, Tensor], bits: int) -> tuple[dict[str, Tensor], int]:
    """A state dict with weights rounded by output channel and all else as float16, and its bytes, entropy-coded."""
    arrays, other, decoded = [], 0, {}
    for name, tensor in state.items():
        if tensor.dim() < 2:
            decoded[name] = tensor.half().float()
            other += 2 * tensor.numel()
            continue
        rows = tensor.flatten(1)
        steps = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-8).half().float()
        integers = (rows / steps).round()
        decoded[name] = (integers * steps).view_as(tensor)
        arrays.append(integers.long().numpy())
        other += 2 * len(rows)
    return decoded, entropy_bytes(arrays) + other


class Network:
    """One of the two networks, with the validation images that measure it."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.args = name, args
        self.weights = RESNET20 if name == 'resnet20' else args.weights_56
        self.original = cifar_original(name, args.weights_56)
        self.images = validation_batches(args.data_dir, self.original)

    def point(self, method: str, setting: str, size: int, model: nn.Module) -> dict[str, Any]:
        accuracy = top1(model, self.images)
        print(f'  {method:<22} {setting:<34} {size:>9,} bytes  {accuracy:.2f} %', flush=True)
        return {'method': method, 'setting': setting, 'bytes': size, 'top1': accuracy}

    def with_state(self, state: Mapping[str, Tensor]) -> nn.Module:
        model = cifar_original(self.name, self.args.weights_56)
        model.load_state_dict(dict(state), strict=False)
        return model

    def rounded(self) -> Iterator[dict[str, Any]]:
        state = {k: v for k, v in load_file(self.weights).items() if not k.endswith('num_batches_tracked')}
        for bits in range(8, 2, -1):
            decoded, size = rounded_by_channel(state, bits)
            yield self.point('rounding + coding', f'{bits} bits by channel', size, self.with_state(decoded))

    def nncodec(self) -> Iterator[dict[str, Any]]:
        for qp, size, state in coded_by_nncodec(self.args.nncodec, self.original.state_dict(), QPS[self.name]):
            yield self.point('NNCodec', f'qp {qp}', size, self.with_state(state))

    def onnx_int8(self) -> Iterator[dict[str, Any]]:
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        training = validation_batches(self.args.data_dir, self.original, 'train', count=CALIBRATION)

        class Reader(CalibrationDataReader):
            batches = iter(training)

            def get_next(self) -> dict[str, Any] | None:
                batch = next(self.batches, None)
                return None if batch is None else {'images': batch[0].numpy()}

        class Quantized(nn.Module):
            def __init__(self, path: Path) -> None:
                super().__init__()
                self.session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

            def forward(self, x: Tensor) -> Tensor:
                return torch.from_numpy(self.session.run(None, {'images': x.numpy()})[0])

        with tempfile.TemporaryDirectory() as folder:
            full, small = Path(folder) / 'full.onnx', Path(folder) / 'int8.onnx'
            torch.onnx.export(self.original, (training[0][0],), full, input_names=['images'], dynamo=False,
                              dynamic_axes={'images': {0: 'batch'}})
            quantize_static(full, small, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
            yield self.point('onnxruntime int8', 'static, by channel', small.stat().st_size, Quantized(small))

    def nern(self) -> Iterator[dict[str, Any]]:
        steps = self.args.nern_steps
        artifact = timm_sbs.fit(
            self.original, pct=20, **NERN, images=f'{self.args.data_dir}/train', second_order_steps=0,
            distillation_steps=steps, eval_interval=steps, lr=3e-4, feature_weight=1)
        with tempfile.TemporaryDirectory() as folder:
            artifact.save(folder)
            yield self.point("NeRN's configuration", f'20 %, float16, {steps} steps',
                             artifact_sizes(Path(folder))['bytes'], artifact.create_model())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--weights-56', required=True)
    parser.add_argument('--nncodec', required=True, metavar='PYTHON')
    parser.add_argument('--nern-steps', type=int, default=300)
    args = parser.parse_args()
    networks: dict[str, Any] = {}
    for name in QPS:
        print(name)
        network = Network(name, args)
        networks[name] = {
            'original': network.point('original', 'float32', value_bytes(network.original.state_dict()),
                                      network.original),
            'points': [point for measure in (network.rounded, network.nncodec, network.onnx_int8, network.nern)
                       for point in measure()]}
    write_results(NAME, {
        'command': f'python tests/benchmarks/{NAME}.py --data-dir CIFAR10 --weights-56 FILE --nncodec PYTHON',
        'images': 10_000, 'seed': 0, 'nern_steps': args.nern_steps, **environment(), 'networks': networks})


if __name__ == '__main__':
    main()
