"""What the benchmarks share: NeRN's configuration, validation images, accuracy, errors, sizes, and results files."""
import csv
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_dataset, create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

import timm_sbs

HERE = Path(__file__).parent
RESNET20 = HERE.parent / 'data' / 'resnet20_cifar10.safetensors'
# NeRN's encoding, cross-filter order and activation, as keywords of timm_sbs.fit.
NERN = dict(order_over='layer', coordinates='grid', encoding='positional', activation='relu')
FILES = ('config.json', 'model.safetensors')  # of an artifact
Batches = list[tuple[Tensor, Tensor]]


def cifar_original(network: str, weights_56: str | Path | None = None) -> nn.Module:
    """'resnet20' or 'resnet56' with the published weights."""
    path = RESNET20 if network == 'resnet20' else weights_56
    return timm.create_model(f'{network}_cifar10', checkpoint_path=path).requires_grad_(False).eval()


def validation_batches(
        root: str | Path, model: nn.Module, split: str = 'validation', class_map: str = '', count: int | None = None,
) -> Batches:
    """Images of ROOT/SPLIT/CLASS as the model expects them, and their classes, decoded once; all, or some drawn."""
    dataset = create_dataset('', root=str(root), split=split, class_map=class_map)
    dataset.transform = create_transform(**resolve_model_data_config(model))
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count]
    return list(DataLoader(Subset(dataset, drawn.tolist()) if count else dataset, batch_size=100))


@torch.inference_mode()
def predictions(model: nn.Module, batches: Batches) -> Tensor:
    """The most probable class of each image."""
    model.eval()
    return torch.cat([model(images).argmax(1) for images, _ in batches])


def percent(hits: Tensor) -> float:
    return round(100 * float(hits.float().mean()), 2)


def top1(model: nn.Module, batches: Batches) -> float:
    """Accuracy in per cent."""
    return percent(predictions(model, batches) == torch.cat([labels for _, labels in batches]))


def generated_error(artifact: timm_sbs.Artifact, original: nn.Module) -> float:
    """Squared error of all generated weights over their squared norm."""
    found, expected = artifact.state_dict(), original.state_dict()
    names = [spec.name for spec in artifact.generator.specs]
    return float(sum((found[n] - expected[n]).square().sum() for n in names)
                 / sum(expected[n].square().sum() for n in names))


def artifact_sizes(folder: Path) -> dict[str, int]:
    """Bytes of an artifact's two files, of its ordering, and the predictor's parameters."""
    ledger = timm_sbs.load(folder).ledger()
    return {'bytes': ledger['total'], 'ordering_bytes': ledger['ordering'],
            'parameters': ledger['predictor_parameters']}


def resumption(folder: Path) -> str | None:
    """``resume`` of a fit: 'latest' where a run was stopped."""
    return 'latest' if (folder / 'checkpoints').exists() else None


def minutes_of(folder: Path) -> dict[str, float]:
    """What each phase of a run took, by summary.csv."""
    with open(folder / 'summary.csv', newline='') as file:
        ends = {row['phase']: float(row['seconds']) for row in csv.DictReader(file)}
    starts = [0., *ends.values()]
    return {phase: round((end - start) / 60, 1) for (phase, end), start in zip(ends.items(), starts)}


def generation_flops(artifact: timm_sbs.Artifact) -> int:
    """Floating-point operations of the matrix products that generate the weights."""
    with FlopCounterMode(display=False) as counter:
        artifact.state_dict()
    return counter.get_total_flops()


def value_bytes(state: Mapping[str, Tensor]) -> int:
    """Of all floating-point values in float32: the size of an original."""
    return sum(4 * tensor.numel() for tensor in state.values() if tensor.is_floating_point())


def coded_by_nncodec(
        python: str, state: Mapping[str, Tensor], qps: Iterable[int]) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
    """Quantization parameter, bytes and decoded tensors of each file that nncodec makes (nncodec_worker.py).

    ``python`` is the interpreter of an environment with nncodec. Integers of the state dict are left out.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, worker = Path(name), HERE / 'nncodec_worker.py'
        save_file({name: tensor.contiguous() for name, tensor in state.items() if tensor.is_floating_point()},
                  folder / 'state.safetensors')
        subprocess.run([python, worker, folder / 'state.safetensors', folder, *map(str, qps)], check=True)
        for qp in qps:
            yield qp, (folder / f'{qp}.nnc').stat().st_size, load_file(folder / f'{qp}.safetensors')


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def environment() -> dict[str, Any]:
    """Versions and hardware, for a results file."""
    threads = torch.get_num_threads()
    name = (torch.cuda.get_device_name() if torch.cuda.is_available()
            else f"{threads} CPU thread{'s' if threads > 1 else ''}, {platform.machine()}")
    return {'versions': {name: version(name) for name in ('timm_sbs', 'timm', 'torch')}, 'hardware': name}


def read_results(name: str) -> dict[str, Any]:
    """results/NAME.json; empty if there is none."""
    path = HERE / 'results' / f'{name}.json'
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write results/NAME.json."""
    (HERE / 'results' / f'{name}.json').write_text(json.dumps(results, indent=2) + '\n')


def replaced(rows: Iterable[Mapping[str, Any]], row: Mapping[str, Any], *keys: str) -> list[Mapping[str, Any]]:
    """Rows of a results file, with one that has the same ``keys`` replaced, or added."""
    return [*(old for old in rows if any(old[key] != row[key] for key in keys)), row]
