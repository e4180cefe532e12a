"""Creating a model from an artifact beside creating it with random weights, and from a full checkpoint.

    OMP_NUM_THREADS=1 python tests/benchmarks/load.py

The artifacts are those of the package; the checkpoint is a local safetensors file of the same weights. The first load
of an artifact generates or decodes its weights, and keeps them in huggingface_hub's folder of assets (here an empty
one); later loads read them there. Calls take turns in one process, and medians are told. Ratios are medians of those of
each round. Memory is measured in a process of its own, in a first load: the largest, above what it has after imports
and above the model itself. Takes a minute.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ASSETS = os.environ['HF_ASSETS_CACHE'] = tempfile.mkdtemp()  # before anything imports huggingface_hub

import safetensors.torch
import timm
from common import artifact_sizes, environment, timed, write_results

import timm_sbs

NAMES = ('sbs_resnet18_15pct', 'sbs_resnet18_2mb', 'sbs_resnet56_cifar10_20pct', 'sbs_resnet56_cifar10_80kb',
         'sbs_resnet20_cifar10_20pct', 'sbs_resnet20_cifar10_30kb')
ROUNDS = 7
KINDS = ('random', 'checkpoint', 'first', 'later')
PEAK = """
import re, sys, timm, timm_sbs
timm.create_model('resnet20_cifar10')
status = lambda key: int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
model = timm.create_model(sys.argv[1], pretrained=True)
print(status('VmHWM') - before - sum(t.nbytes for t in model.state_dict().values()))
"""


def measure(name: str, checkpoint: Path) -> dict[str, Any]:
    artifact = timm_sbs.load(name)
    base = artifact.base.name
    artifact.save(checkpoint.parent / 'artifact')
    safetensors.torch.save_file(artifact.create_model().state_dict(), checkpoint)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(1 + ROUNDS):
        forget()
        for kind, call in (('random', lambda: timm.create_model(base)),
                           ('checkpoint', lambda: timm.create_model(base, checkpoint_path=checkpoint)),
                           ('first', lambda: timm.create_model(name, pretrained=True)),
                           ('later', lambda: timm.create_model(name, pretrained=True))):
            times[kind].append(timed(call)[1])
    rounds = [dict(zip(KINDS, found)) for found in zip(*(times[kind][1:] for kind in KINDS))]  # the first warms up
    forget()
    peak = subprocess.run([sys.executable, '-c', PEAK, name], capture_output=True, text=True, check=True).stdout
    return {
        'bytes': artifact_sizes(checkpoint.parent / 'artifact')['bytes'],
        **{f'{kind}_ms': round(1000 * statistics.median(found[kind] for found in rounds), 1) for kind in KINDS},
        **{f'{kind}_over_{other}': round(statistics.median(found[kind] / found[other] for found in rounds), 2)
           for kind in ('first', 'later') for other in ('random', 'checkpoint')},
        'peak_mb_above_model': round(int(peak) / 1e6)}


def forget() -> None:
    """Delete weights that were kept, so that the next load is a first one."""
    shutil.rmtree(ASSETS, ignore_errors=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = {}
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(name, Path(folder) / 'full.safetensors')
        print(name, rows[name], flush=True)
    forget()
    write_results('load', {'command': 'python tests/benchmarks/load.py', 'seed': 0, 'rounds': ROUNDS, 'models': rows,
                           **environment()})


if __name__ == '__main__':
    main()
