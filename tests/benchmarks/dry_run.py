"""How long --dry-run takes, and how far its forecast of each phase is from what then happens.

    OMP_NUM_THREADS=1 python tests/benchmarks/dry_run.py CIFAR10 PHOTOGRAPHS RESNET56 RESNET18

CIFAR10 is an ImageFolder with 'train' and 'validation', PHOTOGRAPHS any folder of photographs, RESNET56 and RESNET18
are the networks' weights. ResNet-50 has random ones.

The plan is made as a user makes it, with the settings of a recipe, in a process of its own. The forecast of a shorter
run and that run follow in another process, one after the other. Their seconds are CPU time of one process on one
thread, which reads its images too, so that other work on the machine changes little; --clock wall takes those of a
clock instead. Takes ten minutes on one core.
"""
import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from common import HERE, RESNET20, write_results

from timm_sbs.common import devices
from timm_sbs.common.progress import messages
from timm_sbs.training.options.flags import build_parser
from timm_sbs.training.options.parsing import parse_args
from timm_sbs.training.run import dry_run as dry_run_module
from timm_sbs.training.run import reading_forecast, time_forecast
from timm_sbs.training.run import train as train_module
from timm_sbs.training.run.environment import environment

TRAINER = HERE.parents[1] / 'train_sbs.py'
VALIDATED, SEED = 500, 0  # images of the shorter runs; of ResNet-50's weights
# Of the shorter runs. Photographs: 64 in a batch.
SHORT_CIFAR = ['--reconstruction-steps', '150', '--second-order-steps', '100', '--statistics-images', '256',
               '--distillation-steps', '10', '--eval-interval', '5']
SHORT_IMAGENET = ['--reconstruction-steps', '25', '--second-order-steps', '15', '--statistics-images', '192',
                  '--distillation-steps', '6', '--eval-interval', '6', '--checkpointing-steps', '1000']


@contextmanager
def timed_phases(clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Seconds of the trainer's phases, by their names in the forecast."""
    seconds: dict[str, float] = {}

    def timed(call: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = clock()
            result = call(*args, **kwargs)
            phase = name or args[0].name  # of ImagePhase.run
            if phase != 'quantization' or name:  # whose images are a part of it
                seconds[phase] = seconds.get(phase, 0.) + clock() - began
            return result
        return wrapped

    places = [(train_module, 'ordered_artifact', 'ordering'), (train_module, 'reconstruction_phase', 'reconstruction'),
              (train_module, 'open_statistics', 'statistics'), (train_module, 'second_order_phase', 'second-order'),
              (train_module.ImagePhase, 'run', None), (train_module, 'quantization_phase', 'quantization')]
    before = [getattr(owner, attribute) for owner, attribute, _ in places]
    for (owner, attribute, name), call in zip(places, before):
        setattr(owner, attribute, timed(call, name))
    try:
        yield seconds
    finally:
        for (owner, attribute, _), call in zip(places, before):
            setattr(owner, attribute, call)


def compare(flags: list[str], clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Seconds of each phase of a run, as forecast and as they are."""
    known: dict[str, float] = {}

    def noted(start: Any) -> dict[str, float]:
        known.update(time_forecast.forecast_seconds(start))
        return known

    for module in (devices, reading_forecast, time_forecast):
        module.time = types.SimpleNamespace(perf_counter=clock)
    dry_run_module.forecast_seconds = noted
    with messages(), timed_phases(clock) as actual:
        train_module.dry_run(parse_args(build_parser(), [*flags, '--dry-run']))
        train_module.train(parse_args(build_parser(), flags), whole_program=False)
    return {phase: {'forecast': round(known[phase], 3), 'actual': round(actual[phase], 3)} for phase in known}


def plan(flags: list[str]) -> dict[str, float]:
    """Seconds of a dry run from its start to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, str(TRAINER), *flags, '--dry-run'], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {'wall': round(time.perf_counter() - began, 1),
            'cpu': round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)}


def some_images(folder: Path, to: Path, per_class: int | None, most: int) -> None:
    """Links to some images of a folder: so many of each of its folders, or some from all over it."""
    def link(files: list[Path], where: Path) -> None:
        where.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(files):
            (where / f'{number}_{file.name}').symlink_to(file.resolve())

    if per_class:
        for each in sorted(path for path in folder.iterdir() if path.is_dir()):
            link(sorted(each.iterdir())[:per_class], to / each.name)
    else:
        files = sorted(path for path in folder.rglob('*') if path.suffix.lower() in ('.jpg', '.jpeg', '.png'))
        link(files[::max(1, len(files) // most)][:most], to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('cifar10', type=Path)
    parser.add_argument('photographs', type=Path)
    parser.add_argument('resnet56', type=Path)
    parser.add_argument('resnet18', type=Path)
    parser.add_argument('--clock', choices=('cpu', 'wall'), default='cpu')
    parser.add_argument('--compare', help=argparse.SUPPRESS)  # flags of one run, as JSON, for the other process
    parser.add_argument('--only', nargs='+', help='networks; results of others stay as they are')
    args = parser.parse_args()
    if args.compare:
        found = compare(json.loads(args.compare), time.process_time if args.clock == 'cpu' else time.perf_counter)
        print(json.dumps(found), file=sys.stderr)
        return
    results = HERE / 'results' / 'dry_run.json'
    networks = json.loads(results.read_text())['networks'] if args.only and results.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split, count in (('train', 30), ('validation', VALIDATED // 10)):
            some_images(args.cifar10 / split, folder / 'cifar10' / split, count, 0)
        some_images(args.photographs, folder / 'photographs', None, 200)
        random = folder / 'resnet50.safetensors'
        torch.manual_seed(SEED)
        safetensors.torch.save_file(timm.create_model('resnet50').state_dict(), random)
        cifar, imagenet = ['--recipe', 'cifar10', '--data-dir'], ['--recipe', 'imagenet', '--unlabelled-dir']
        for name, weights, recipe, images, short in (
                ('resnet20_cifar10', RESNET20, cifar, args.cifar10, SHORT_CIFAR),
                ('resnet56_cifar10', args.resnet56, cifar, args.cifar10, SHORT_CIFAR),
                ('resnet18', args.resnet18, imagenet, args.photographs, SHORT_IMAGENET),
                ('resnet50', random, imagenet, args.photographs, SHORT_IMAGENET)):
            if args.only and name not in args.only:
                continue
            flags = ['--model', name, '--initial-checkpoint', str(weights), *recipe]
            fewer = folder / ('cifar10' if recipe is cifar else 'photographs')
            full = [*flags, str(images), '--output', str(folder / 'plan')]
            part = [*flags, str(fewer), '--workers', '0', '--output', str(folder / name), *short]
            done = subprocess.run(
                [sys.executable, __file__, *map(str, (args.cifar10, args.photographs, args.resnet56, args.resnet18)),
                 '--clock', args.clock, '--compare', json.dumps(part)],
                check=True, stderr=subprocess.PIPE, text=True,
                env={**os.environ, 'TIMM_SBS_CACHE': 'off'})
            networks[name] = {'plan': plan(full), 'phases': json.loads(done.stderr.splitlines()[-1])}
            print(name, json.dumps(networks[name], indent=1), flush=True)
    write_results('dry_run', {
        'command': 'python tests/benchmarks/dry_run.py CIFAR10 PHOTOGRAPHS RESNET56 RESNET18', 'seed': SEED,
        'clock': args.clock, 'networks': networks, **environment(torch.device('cpu'))})


if __name__ == '__main__':
    main()
