"""ONNX models that compute their weights in several runtimes, beside plain ones.

    pip install openvino tract && npm install onnxruntime-web
    OMP_NUM_THREADS=1 python tests/benchmarks/onnx_engines.py [--node-modules node_modules]

Each runtime loads each model in a process of its own, on one thread. Told are seconds of loading, milliseconds of an
inference (medians of three processes), nodes that an inference runs, and the largest difference of a logit from ONNX
Runtime's, relative to the largest logit. --node-modules is where onnxruntime-web is; without it, that is left out.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import environment, read_results, write_results

import timm_sbs

MODELS = ('sbs_resnet20_cifar10_30kb', 'sbs_resnet20_cifar10_20pct', 'sbs_resnet18_2mb', 'sbs_resnet18_15pct')
NAME, ROUNDS = 'onnx_engines', 3
# Each prints JSON: seconds of loading, milliseconds of an inference, nodes that it runs, logits.
PYTHON = """
import json, statistics, sys, time
import numpy
path, image = sys.argv[1], numpy.load(sys.argv[2])
def report(seconds, call, nodes):
    logits, times = call(), []
    for _ in range(20):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    print(json.dumps([seconds, 1000 * statistics.median(times), nodes, numpy.ravel(logits).tolist()]))
"""
ENGINES = {
    'onnxruntime': PYTHON + """
import onnx, onnxruntime, os, tempfile
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
started = time.perf_counter()
session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
seconds = time.perf_counter() - started
options.optimized_model_filepath = os.path.join(tempfile.mkdtemp(), 'expanded.onnx')
onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
nodes = len(onnx.load(options.optimized_model_filepath).graph.node)
report(seconds, lambda: session.run(None, {'pixel_values': image})[0], nodes)
""",
    'openvino': PYTHON + """
import openvino
core = openvino.Core()
started = time.perf_counter()
settings = {'INFERENCE_NUM_THREADS': 1, 'INFERENCE_PRECISION_HINT': 'f32'}
model = core.compile_model(core.read_model(path), 'CPU', settings)
seconds = time.perf_counter() - started
nodes = sum('Const' not in str(op.get_rt_info()['layerType']) for op in model.get_runtime_model().get_ordered_ops())
report(seconds, lambda: model(image)[0], nodes)
""",
    'tract': PYTHON + """
import tract
started = time.perf_counter()
model = tract.onnx().load(path)
model.set_input_fact(0, ','.join(map(str, image.shape)) + ',f32')
model.set_output_fact(0, None)
model = model.into_model().into_runnable()
seconds = time.perf_counter() - started
profile = json.loads(model.profile_json([image]))
nodes = sum('secs_per_iter' in node for node in profile['nodes'])
report(seconds, lambda: model.run([image])[0].to_numpy(), nodes)
"""}
NODE = """
import * as ort from 'onnxruntime-web';
import { readFileSync } from 'node:fs';
ort.env.wasm.numThreads = 1;
const [path, image, shape] = process.argv.slice(2);
const data = new Float32Array(readFileSync(image).buffer.slice(0));
const model = readFileSync(path);
let started = performance.now();
const session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
const seconds = (performance.now() - started) / 1000;
const feeds = { pixel_values: new ort.Tensor('float32', data, JSON.parse(shape)) };
let logits = (await session.run(feeds)).logits.data;
const times = [];
for (let i = 0; i < 20; i++) {
  started = performance.now();
  await session.run(feeds);
  times.push(performance.now() - started);
}
times.sort((a, b) => a - b);
console.log(JSON.stringify([seconds, times[10], null, Array.from(logits)]));
"""


def run(engine: str, model: Path, image: np.ndarray, modules: Path | None) -> list[Any]:
    folder = model.parent
    if engine == 'onnxruntime-web':
        assert modules
        image.tofile(folder / 'image.bin')
        script = modules.parent / 'timm_sbs_engine.mjs'
        script.write_text(NODE)
        command = ['node', str(script), str(model), str(folder / 'image.bin'), json.dumps(image.shape)]
    else:
        np.save(folder / 'image.npy', image)
        command = [sys.executable, '-c', ENGINES[engine], str(model), str(folder / 'image.npy')]
    variables = {**os.environ, 'RAYON_NUM_THREADS': '1'}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--node-modules', type=Path)
    parser.add_argument('--only', nargs='+', help='models to measure anew; other results stay')
    args = parser.parse_args()
    torch.set_num_threads(1)
    engines = [*ENGINES, *(['onnxruntime-web'] if args.node_modules else [])]
    models = args.only or MODELS
    rows = [row for row in read_results(NAME).get('rows', []) if row['model'] not in models]
    for name in models:
        artifact = timm_sbs.load(name)
        size = artifact.base.pretrained_cfg['input_size']
        image = np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            files = {kind: Path(folder) / f'{kind}.onnx' for kind in ('plain', 'small')}
            for kind, file in files.items():
                file.write_bytes(artifact.onnx_model(plain=kind == 'plain'))
            exact = np.array(run('onnxruntime', files['plain'], image, None)[3])
            for engine in engines:
                row: dict[str, Any] = {'model': name, 'engine': engine}
                rounds = [{kind: run(engine, file, image, args.node_modules) for kind, file in files.items()}
                          for _ in range(ROUNDS)]
                for kind in files:
                    seconds, milliseconds = (statistics.median(found[kind][i] for found in rounds) for i in (0, 1))
                    row |= {f'{kind}_load_s': round(seconds, 3), f'{kind}_inference_ms': round(milliseconds, 2),
                            f'{kind}_nodes': rounds[0][kind][2]}
                found = np.array(rounds[0]['small'][3])
                rows.append({**row, 'difference': float(f'{np.abs(found - exact).max() / np.abs(exact).max():.1e}')})
                print(rows[-1], flush=True)
    packages = {name: version(name) for name in ENGINES}
    if args.node_modules:
        described = json.loads((args.node_modules / 'onnxruntime-web' / 'package.json').read_text())
        packages['onnxruntime-web'] = described['version']
    write_results(NAME, {
        'command': 'OMP_NUM_THREADS=1 python tests/benchmarks/onnx_engines.py --node-modules node_modules', 'seed': 0,
        'rounds': ROUNDS, 'engines': packages, 'rows': rows, **environment()})


if __name__ == '__main__':
    main()
