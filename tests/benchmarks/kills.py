"""The trainer, a save, a download and a push, each killed (SIGKILL) at moments spread over what they do.

    python tests/benchmarks/kills.py [--moments 40]

writes results/kills.json. A moment is a change of a file, or a request to a Hub on loopback. After each kill, what is
there is loaded: it must be an artifact that was written as a whole, or none. Then the work is done again, and must end
as if nothing had happened.
"""
import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_server import TOKEN, running_hub

HOME = Path(tempfile.mkdtemp())
HUB = running_hub()
SERVER = HUB.__enter__()  # huggingface_hub reads its address when it is imported
os.environ.update(OMP_NUM_THREADS='1', TQDM_DISABLE='1', HF_HOME=str(HOME / 'hf'), HF_ENDPOINT=SERVER.endpoint,
                  HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET='1', NO_PROXY='*', no_proxy='*')

import huggingface_hub  # noqa: F401  it reads its address now
import torch
from common import RESNET20, environment, write_results
from conftest import write_demo_images
from resnet8 import NAME, write_weights

import timm_sbs
from timm_sbs.artifact.hub import download

os.environ['HF_TOKEN'] = TOKEN  # which conftest takes away
CHANGES = ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink')
REPOSITORY = 'user/killed'


class Requests(list[str]):
    """A log of requests; a process is killed when the n-th comes."""

    def __init__(self, child: int, moment: int) -> None:
        super().__init__()
        self._child, self._moment = child, moment

    def append(self, request: str) -> None:
        super().append(request)
        if len(self) == self._moment:
            os.kill(self._child, signal.SIGKILL)


def in_fork(work: Callable[[], Any], folder: Path | None, moment: int = 0) -> tuple[bool, int]:
    """Do some work in a fork that is killed at its n-th change of a file below a folder; without one, at its n-th
    request to the Hub.

    Returns:
        Whether it was killed, and how many changes or requests there were.
    """
    (ready, start), (counts, count) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        seen, status = 0, 1

        def changed(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event not in CHANGES or not str(arguments[0]).startswith(str(folder)):
                return
            if event == 'open' and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            os.read(ready, 1)
            if folder:
                sys.addaudithook(changed)
            work()
            status = 0
        finally:
            os.write(count, str(seen).encode())
            os._exit(status)
    os.close(count)
    SERVER.requests = Requests(child, 0 if folder else moment)
    os.write(start, b'.')
    _, status = os.waitpid(child, 0)
    seen = int(os.read(counts, 100) or 0) if folder else len(SERVER.requests)
    for end in (ready, start, counts):
        os.close(end)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError('the work itself has failed')
    return os.WIFSIGNALED(status), seen


def weights_of(folder: Path) -> str | None:
    """A number that tells an artifact's weights from others; None if none can be loaded."""
    try:
        state = timm_sbs.load(folder).state_dict()
    except timm_sbs.SbsError:
        return None
    return repr(sum(float(tensor.double().abs().sum()) for tensor in state.values()))


def all_written(work: Callable[[Path], Any]) -> set[str | None]:
    """Weights of all artifacts that some work writes, one after another."""
    found, save = set(), timm_sbs.Artifact.save

    def recorded(artifact: timm_sbs.Artifact, folder: Path) -> None:
        save(artifact, folder)
        found.add(weights_of(folder))

    timm_sbs.Artifact.save = recorded
    try:
        with tempfile.TemporaryDirectory() as folder:
            work(Path(folder))
    finally:
        timm_sbs.Artifact.save = save
    return found


def trial(
        name: str,
        work: Callable[[Path], Any],
        result: Callable[[Path], str | None],
        count: int,
        allowed: set[str | None],
        prepare: Callable[[Path], Any] = lambda folder: None,
        by_requests: bool = False,
) -> dict[str, Any]:
    """Kill some work at several moments, and do it again each time.

    Args:
        work: Writes below the folder that it is given, and goes on with what is there.
        result: What is there afterwards; None if nothing can be loaded.
        count: Moments.
        allowed: What may be there after a kill, beside nothing.
        prepare: Called with the folder, which does not exist, before each kill.
        by_requests: Whether a moment is a request instead of a change of a file.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / 'folder'

        def run(moment: int = 0) -> tuple[bool, int]:
            return in_fork(lambda: work(folder), None if by_requests else folder, moment)

        prepare(folder)
        _, changes = run()
        expected, wrong, kills, loaded = result(folder), [], 0, 0
        moments = sorted({1 + round(index * (changes - 1) / max(1, count - 1)) for index in range(count)})
        for moment in moments:
            shutil.rmtree(folder, ignore_errors=True)
            prepare(folder)
            killed, _ = run(moment)  # the last moment of a download does not come each time
            found = result(folder)
            kills, loaded = kills + killed, loaded + (found is not None)
            if found not in (None, expected, *allowed):
                wrong.append(f'moment {moment}: something else is there')
            run()
            if result(folder) != expected:
                wrong.append(f'moment {moment}: another end')
    print(f'{name}: {kills} kills in {changes} moments, {len(wrong)} wrong', *wrong, sep='\n  ', flush=True)
    return {'name': name, 'moments': changes, 'kills': kills, 'loadable_after_a_kill': loaded, 'wrong': wrong}


def snapshot(folder: Path) -> str | None:
    """Weights of a downloaded artifact in a cache."""
    return next((found for path in folder.glob('models--*/snapshots/*') if (found := weights_of(path))), None)


def pushed(folder: Path) -> str | None:
    """Weights of the artifact that the Hub has."""
    folder.mkdir(exist_ok=True)
    for name, data in SERVER.refs.get(REPOSITORY, {}).get('main', {}).items():
        (folder / name).write_bytes(data)
    return weights_of(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--moments', type=int, default=40, help='kills of the trainer; of the others a fifth as many')
    count = parser.parse_args().moments
    torch.set_num_threads(1)
    weights = write_weights(HOME / 'weights.safetensors', RESNET20)
    images = write_demo_images(HOME / 'images', {'train': range(400)}) / 'train'
    common = dict(model=NAME, initial_checkpoint=str(weights), mixed_precision='no', quiet=True, images=str(images),
                  statistics_images=40, workers=0, batch_size=10, eval_interval=2, checkpointing_steps=2,
                  resume='latest', second_order_steps=4, distillation_steps=4)
    kinds = {'a predictor of 5 bits': dict(pct=20, bits=5, reconstruction_steps=6),
             'rounded weights': dict(bytes='14k')}
    rows = []
    for kind, fields in kinds.items():
        def fit(folder: Path, fields: dict[str, Any] = fields) -> None:
            timm_sbs.fit(**common, **fields, output=folder)

        rows.append(trial(f'trainer, {kind}', fit, weights_of, count // 2, all_written(fit)))
    few, original = max(3, count // 5), dict(model=NAME, initial_checkpoint=str(weights), quiet=True)
    small, large = timm_sbs.fit(**original, bytes='14k'), timm_sbs.fit(**original, bytes='20k')
    small.save(HOME / 'small')
    rows.append(trial('save over another', large.save, weights_of, few, {weights_of(HOME / 'small')}, small.save))
    rows.append(trial('push', lambda folder: large.push_to_hub(REPOSITORY), pushed, few, set(),
                      lambda folder: SERVER.refs.pop(REPOSITORY, None), by_requests=True))
    rows.append(trial('download', lambda folder: download(REPOSITORY, folder), snapshot, few, set()))
    write_results('kills', {
        'command': f'python tests/benchmarks/kills.py --moments {count}', 'seed': 0, 'rows': rows, **environment()})
    shutil.rmtree(HOME, ignore_errors=True)
    return 1 if any(row['wrong'] for row in rows) else 0


if __name__ == '__main__':
    status = main()
    HUB.__exit__(None, None, None)
    sys.exit(status)
