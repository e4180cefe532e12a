"""Loading a predictor beside loading the full checkpoint: time, operations, memory, and the link that is worth it.

    python tests/benchmarks/load.py

'shipped' are the predictors of ResNet-20 and ResNet-18 in the package. The others have the right shapes, 15 % of the
parameters, 5 bits a weight and random weights, in two orderings, 'axis' (paths over both axes of each layer: a few
kilobytes) and 'layer' (a path over each layer: most of the file). 'unfolded' is 'axis' with one kernel at each place.
All checkpoints are local files; the full one is a safetensors file, the int8 one has integers with a step for each row,
which are turned into floats again. Calls take turns, medians are reported, first loads find an empty cache, and memory
is measured in a process of its own, above what it has after its imports. The limit is the time that the predictor's
matrix products alone would take at the rate of one product of its width, measured in the same run. Takes 3 minutes.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from common import operations, product_rate, seconds, write_results

import timm_sbs  # noqa: F401  (registers models)
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import artifact_bytes, load_artifact, save_artifact
from timm_sbs.common.cache import clear_cache
from timm_sbs.common.config import OrderingConfig
from timm_sbs.predictor.generator import BLOCK, DEVICE_BLOCK
from timm_sbs.training.design.forecast import random_orderings
from timm_sbs.training.design.sizing import design, start_artifact
from timm_sbs.training.options.settings import ENCODING_DEFAULTS, MAX_PLACES, QUANTIZED_LINEAR_LAYERS
from timm_sbs.training.run.environment import environment

VARIANTS = {
    'layer': OrderingConfig('layer', 'path'),
    'axis': OrderingConfig('axes', 'grid'),
}
SHIPPED = {'resnet20_cifar10': 'sbs_resnet20_cifar10_42pct', 'resnet18': 'sbs_resnet18_15pct'}
RANDOM = {'resnet20_cifar10': (), 'resnet18': ('axis',), 'resnet50': ('layer', 'axis')}
REPEATS = 7


def write_artifact(
        folder: Path, model: torch.nn.Module, ordering: OrderingConfig, max_places: int | None = None) -> None:
    chosen = design(
        model, pct=15., bits=5., ordering=ordering, encoding=ENCODING_DEFAULTS[ordering.coordinates],
        linear_layers=QUANTIZED_LINEAR_LAYERS, max_places=max_places)
    permutations = random_orderings(chosen.specs, chosen.generator.ordering)
    save_artifact(folder, start_artifact(chosen, permutations, model, seed=0))


def write_checkpoints(folder: Path, model: torch.nn.Module) -> None:
    state = model.state_dict()
    safetensors.torch.save_file(state, folder / 'full.safetensors')
    integers = {}
    for name, tensor in state.items():
        if tensor.dim() > 1:
            step = tensor.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
            rounded = tensor / step.view(-1, *(1,) * (tensor.dim() - 1))
            integers[name], integers[f'{name}.step'] = rounded.round().to(torch.int8), step
        else:
            integers[name] = tensor
    safetensors.torch.save_file(integers, folder / 'int8.safetensors')


def load_int8(name: str, path: Path) -> torch.nn.Module:
    tensors = safetensors.torch.load_file(path)
    model = timm.create_model(name)
    model.load_state_dict({
        key: tensor.float() * tensors[f'{key}.step'].view(-1, *(1,) * (tensor.dim() - 1))
        if tensor.dtype == torch.int8 else tensor for key, tensor in tensors.items() if not key.endswith('.step')})
    return model


def peak_memory(code: str) -> int:
    """Bytes of the largest resident set while ``code`` runs, above those after imports."""
    program = (
        'import re, sys, timm, timm_sbs, torch\n'
        'import timm_sbs.artifact.load_weights, tqdm.auto\n'
        'timm.create_model("resnet20_cifar10")\n'
        'status = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024\n'
        'open("/proc/self/clear_refs", "w").write("5")\n'
        f'before = status("VmRSS")\nmodel = {code}\nprint(status("VmHWM") - before)')
    shown = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    return int(shown.stdout)


def generation(folder: Path, device: torch.device, block: int, repeats: int = REPEATS) -> dict[str, Any]:
    """Time of generating alone, beside the fewest seconds that its products could take."""
    generator = load_artifact(folder).generator.to(device)

    def generate() -> None:
        generator()
        if device.type == 'cuda':
            torch.cuda.synchronize()

    times = [seconds(generate) for _ in range(1 + repeats)][1:]
    flop, rate = operations(generator), product_rate(block, generator.config.predictor.width, device)
    return {
        'places': sum(group.num_places for group in generator.groups),
        'kernels': sum(len(group.place_of_kernel) for group in generator.groups),
        'gflop': round(flop / 1e9, 1), 'ms': round(1000 * statistics.median(times), 1),
        'limit_ms': round(1000 * flop / rate, 1), 'matrix_product_gflops': round(rate / 1e9, 1),
        'share_of_limit': round(flop / rate / statistics.median(times), 2)}


def bfloat16_error(folder: Path) -> float:
    """Squared error over squared norm of kernels that are generated in bfloat16."""
    generator = load_artifact(folder).generator
    group = generator.groups[0]
    features = generator.features(group)
    exact = generator.predictor(features, group.output_size)
    rough = generator.predictor.bfloat16()(features.bfloat16(), group.output_size).float()
    return float((rough - exact).square().sum() / exact.square().sum())


def mbit_per_second(more_bytes: int, more_seconds: float) -> float:
    """Link speed below which ``more_bytes`` take longer than ``more_seconds``."""
    return round(8 * more_bytes / 1e6 / max(more_seconds, 1e-9), 1)


def measure(name: str, folders: dict[str, Path], checkpoints: Path) -> dict[str, Any]:
    full, int8 = checkpoints / 'full.safetensors', checkpoints / 'int8.safetensors'

    def first(folder: Path) -> Callable[[], None]:
        def call() -> None:
            timm.create_model(f'local-dir:{folder}', pretrained=True)
        return call

    def load_full() -> None:
        timm.create_model(name, checkpoint_path=full)

    times: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        times.setdefault('full', []).append(seconds(load_full))
        times.setdefault('int8', []).append(seconds(lambda: load_int8(name, int8)))
        for key, folder in folders.items():
            clear_cache()
            times.setdefault(f'{key}, first', []).append(seconds(first(folder)))
            times.setdefault(f'{key}, second', []).append(seconds(first(folder)))
            times.setdefault('full', []).append(seconds(load_full))
    median = {key: statistics.median(values) for key, values in times.items()}
    model_bytes = sum(t.nbytes for t in timm.create_model(name).state_dict().values())
    result: dict[str, Any] = {
        'full_bytes': full.stat().st_size, 'full_ms': round(1000 * median['full'], 1),
        'int8_bytes': int8.stat().st_size, 'int8_ms': round(1000 * median['int8'], 1),
        'model_mb': round(model_bytes / 1e6, 1)}
    for key, folder in folders.items():
        size = artifact_bytes(folder)
        later, again = median[f'{key}, first'], median[f'{key}, second']
        clear_cache()
        peak = peak_memory(f'timm.create_model("local-dir:{folder}", pretrained=True)')
        result[key] = {
            'bytes': size, 'first_ms': round(1000 * later, 1), 'first_over_full': round(later / median['full'], 2),
            'second_ms': round(1000 * again, 1), 'second_over_full': round(again / median['full'], 2),
            'generation': generation(folder, torch.device('cpu'), BLOCK),
            'peak_mb': round(peak / 1e6, 1), 'peak_mb_above_model': round((peak - model_bytes) / 1e6, 1),
            'faster_than_full_below_mbit': mbit_per_second(full.stat().st_size - size, later - median['full']),
            'faster_than_int8_below_mbit': mbit_per_second(int8.stat().st_size - size, later - median['int8'])}
        if torch.cuda.is_available():
            result[key]['cuda'] = generation(folder, torch.device('cuda'), DEVICE_BLOCK)
    return result


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results: dict[str, Any] = {'command': 'python tests/benchmarks/load.py', 'seed': 0, 'repeats': REPEATS,
                               'max_places': MAX_PLACES, 'networks': {}}
    with tempfile.TemporaryDirectory() as place:
        os.environ['TIMM_SBS_CACHE'] = f'{place}/cache'
        for name in RANDOM:
            checkpoints = Path(place) / name
            checkpoints.mkdir()
            torch.manual_seed(0)
            model = timm.create_model(name).eval()
            write_checkpoints(checkpoints, model)
            folders = {}
            if name in SHIPPED:
                folders['shipped'] = shipped_folder(SHIPPED[name])
            for key in RANDOM[name]:
                folders[key] = checkpoints / key
                write_artifact(folders[key], model, VARIANTS[key])
            results['networks'][name] = measure(name, folders, checkpoints)
            if name == 'resnet18':
                write_artifact(checkpoints / 'unfolded', model, VARIANTS['axis'], max_places=0)
                results['networks'][name]['unfolded'] = generation(
                    checkpoints / 'unfolded', torch.device('cpu'), BLOCK, repeats=1)
            print(name, json.dumps(results['networks'][name], indent=1), flush=True)
        results['bfloat16_error'] = bfloat16_error(shipped_folder('sbs_resnet20_cifar10_42pct'))
    write_results('load', {**results, **environment()})


if __name__ == '__main__':
    main()
