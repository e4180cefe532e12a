"""Artifacts as a stranger might send them, each used in a process with limits of memory and time.

    python tests/benchmarks/fuzz.py --cases 10000 [--seed 0] [--processes 2]

writes results/fuzz.json. A case is repeated alone by --case SEED.
"""
import argparse
import collections
import concurrent.futures
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TQDM_DISABLE='1')
sys.path.insert(0, str(Path(__file__).parents[1]))


import torch
from common import RESNET20, environment, write_results
from resnet8 import NAME, write_weights
from stranger import one_case

import timm_sbs

KINDS = ('predictor', 'quantized predictor', 'rounded')


def good_artifacts(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """The two files of three small artifacts."""
    weights = write_weights(folder / 'weights.safetensors', RESNET20)
    common = dict(initial_checkpoint=str(weights), second_order_steps=0, mixed_precision='no', quiet=True)
    fields = {'predictor': dict(pct=20, reconstruction_steps=20), 'rounded': dict(bytes='12k'),
              'quantized predictor': dict(pct=20, bits=6, reconstruction_steps=20)}
    found = {}
    for kind in KINDS:
        timm_sbs.fit(NAME, **common, **fields[kind]).save(folder / kind)
        found[kind] = tuple((folder / kind / name).read_bytes() for name in ('config.json', 'model.safetensors'))
    return found


def _work(seeds: range, files: dict[str, tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp())
    os.environ['HF_HOME'] = str(root / 'hf')
    try:
        kinds = [(seed, KINDS[seed % len(KINDS)]) for seed in seeds]
        return [{'artifact': kind, **one_case(root / 'case', files[kind], seed)} for seed, kind in kinds]
    finally:
        shutil.rmtree(root, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0, help='of the first case')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--case', type=int, help='one case alone')
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = good_artifacts(Path(folder))
    if args.case is not None:
        print(json.dumps(_work(range(args.case, args.case + 1), files)[0], indent=2))
        return 0
    started, results = time.perf_counter(), []
    step = 50
    seeds = [range(start, min(start + step, args.seed + args.cases))
             for start in range(args.seed, args.seed + args.cases, step)]
    with concurrent.futures.ProcessPoolExecutor(args.processes, multiprocessing.get_context('fork')) as pool:
        for done in concurrent.futures.as_completed([pool.submit(_work, part, files) for part in seeds]):
            results += done.result()
            for case in done.result():
                if case['wrong']:
                    print(f"case {case['seed']} ({case['artifact']}, {case['change']}): "
                          f"{'; '.join(case['wrong'])[:400]}", flush=True)
            print(f'{len(results):,} of {args.cases:,} cases, {time.perf_counter() - started:.0f} s', flush=True)
    outcomes = collections.Counter(
        (case['change'], 'loaded' if case['found'].get('load') == 'fine' else 'refused') for case in results)
    refused = [case for case in results if case['found'].get('load') != 'fine']
    write_results('fuzz', {
        'command': f'python tests/benchmarks/fuzz.py --cases {args.cases} --seed {args.seed}',
        'seed': args.seed,
        'cases': len(results),
        'harmful': sum(bool(case['wrong']) for case in results),
        'outcomes': {change: {way: outcomes[change, way] for way in ('loaded', 'refused')}
                     for change in sorted({change for change, _ in outcomes})},
        'most_memory_mb': round(max(case['memory'] for case in results) / 1e6),
        'slowest_refusal_seconds': round(max(case['seconds'] for case in refused), 1),
        **environment(),
    })
    return 1 if any(case['wrong'] for case in results) else 0


if __name__ == '__main__':
    sys.exit(main())
