"""ONNX models that compute their weights beside plain ones: bytes, time and memory of loading, time of an inference.

    OMP_NUM_THREADS=1 python tests/benchmarks/onnx_models.py [--artifact FOLDER ...]

needs the extras 'onnx' and 'benchmarks'. Measures the artifacts of the package, further ones in folders, and a vision
transformer with random weights, rounded, of which the sizes and times mean something. Each model is loaded by ONNX
Runtime on one thread in five processes of its own, in turns with the plain one; medians are told. Memory is the
process's largest, above what it has after imports. Logits are compared with PyTorch's on the photographs of the demo.
Takes ten minutes.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import onnxruntime
import timm
import torch
import zstandard
from common import artifact_sizes, environment, read_results, write_results
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

import timm_sbs
from timm_sbs.cli.demo import FOLDER, demo_batches, load_demo_images
from timm_sbs.common.entries import ENTRIES

NAME, ROUNDS, INFERENCES = 'onnx_models', 5, 30
TRANSFORMER = 'vit_tiny_patch16_224'
PROCESS = """
import json, re, statistics, sys, time
import numpy, onnxruntime
path, inferences = sys.argv[1], int(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
status = lambda key: int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
started = time.perf_counter()
session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
seconds = time.perf_counter() - started
peak = status('VmHWM') - before
image = numpy.random.default_rng(0).standard_normal((1, *session.get_inputs()[0].shape[1:])).astype(numpy.float32)
times = []
for _ in range(inferences):
    started = time.perf_counter()
    session.run(None, {'pixel_values': image})
    times.append(time.perf_counter() - started)
print(json.dumps([1000 * seconds, 1000 * statistics.median(times), peak / 1e6]))
"""


def transformer() -> timm_sbs.Artifact:
    torch.manual_seed(0)
    return timm_sbs.fit(timm.create_model(TRANSFORMER), bytes='1.5M', second_order_steps=0, distillation_steps=0)


def measured(path: Path) -> list[float]:
    """Milliseconds of loading and of an inference, megabytes."""
    command = [sys.executable, '-c', PROCESS, str(path), str(INFERENCES)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def real_images(network: nn.Module) -> Tensor:
    """CIFAR-10 images or photographs of the demo, as a network takes them."""
    if network.pretrained_cfg['input_size'][-1] == 32:
        return next(demo_batches(load_demo_images(), network.pretrained_cfg))[0][:32]
    transform = create_transform(**resolve_model_data_config(network))
    return torch.stack([transform(Image.open(path).convert('RGB')) for path in sorted(FOLDER.glob('*.jpg'))])


@torch.inference_mode()
def difference(network: nn.Module, model: bytes) -> float:
    """The largest one of a logit from PyTorch's on real images, relative to the largest logit."""
    images = real_images(network)
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    found, exact = session.run(None, {'pixel_values': images.numpy()})[0], network(images).numpy()
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def row(name: str, artifact: timm_sbs.Artifact, folder: Path) -> dict[str, Any]:
    artifact.save(folder / 'artifact')
    models = {kind: artifact.onnx_model(plain=kind == 'plain') for kind in ('plain', 'small')}
    for kind, model in models.items():
        (folder / f'{kind}.onnx').write_bytes(model)
    rounds = [{kind: measured(folder / f'{kind}.onnx') for kind in models} for _ in range(ROUNDS)]

    def median(values: list[float], digits: int) -> float:
        return round(statistics.median(values), digits)

    return {
        'name': name, 'artifact_bytes': artifact_sizes(folder / 'artifact')['bytes'],
        'bytes': len(models['small']), 'plain_bytes': len(models['plain']),
        'brotli_bytes': len(brotli.compress(models['small'], lgwin=24)),
        'zstd_bytes': len(zstandard.ZstdCompressor(level=22).compress(models['small'])),
        **{f'{kind}_load_ms': median([found[kind][0] for found in rounds], 1) for kind in models},
        **{f'{kind}_inference_ms': median([found[kind][1] for found in rounds], 2) for kind in models},
        'load_in_inferences': median([found['small'][0] / found['small'][1] for found in rounds], 1),
        'plain_load_in_inferences': median([found['plain'][0] / found['plain'][1] for found in rounds], 1),
        'inference_ratio': median([found['small'][1] / found['plain'][1] for found in rounds], 3),
        'more_memory_mb': median([found['small'][2] - found['plain'][2] for found in rounds], 0),
        'difference': float(f"{difference(artifact.create_model().eval(), models['small']):.1e}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--artifact', action='append', default=[], type=Path, help='a folder')
    parser.add_argument('--only', nargs='+', help='names to measure anew; other results stay')
    args = parser.parse_args()
    torch.set_num_threads(1)
    artifacts = {name: timm_sbs.load(name) for name in ENTRIES}
    artifacts |= {folder.name: timm_sbs.load(folder) for folder in args.artifact} | {TRANSFORMER: transformer()}
    rows = {row['name']: row for row in read_results(NAME).get('rows', [])}
    for name, artifact in artifacts.items():
        if not args.only or name in args.only:
            with tempfile.TemporaryDirectory() as folder:
                rows[name] = row(name, artifact, Path(folder))
            print(rows[name], flush=True)
    write_results(NAME, {
        'command': 'OMP_NUM_THREADS=1 python tests/benchmarks/onnx_models.py --artifact FOLDER', 'seed': 0,
        'rounds': ROUNDS, 'onnxruntime': onnxruntime.__version__, 'rows': [*rows.values()], **environment()})


if __name__ == '__main__':
    main()
