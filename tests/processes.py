"""Fresh Python processes in a moment: forks of one that has imported torch and timm, which takes others seconds each.

For what needs a process of its own: another environment, a kill, several at once, all that is printed. They know the
variables of the Hub that they are given. OMP_NUM_THREADS, read when torch was imported, is 1. What importing itself
does is tested with subprocess.
"""
import importlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import types
from pathlib import Path

_PRELOADED = ['pytest', 'accelerate', 'timm', 'timm_sbs.cli.main', 'timm_sbs.training.train']
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(_PRELOADED)


def _main(argv: list[str], env: dict[str, str], cwd: str, folder: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{folder}/{name}', os.O_WRONLY | os.O_CREAT), number)
    from huggingface_hub import constants
    importlib.reload(constants)  # which read the variables
    kind = argv.pop(0) if argv[0] in ('-c', '-m') else None
    sys.argv = ['-c', *argv[1:]] if kind == '-c' else argv
    if kind == '-m':
        runpy.run_module(argv[0], run_name='__main__', alter_sys=True)
    elif kind == '-c':
        sys.modules['__main__'] = module = types.ModuleType('__main__')
        exec(argv[0], module.__dict__)
    else:
        sys.path.insert(0, str(Path(argv[0]).parent))
        runpy.run_path(argv[0], run_name='__main__')


class Process:
    """``python ARGV``, where ARGV is -c CODE, -m MODULE or a script, and arguments."""

    def __init__(self, *argv: object, env: dict[str, str] | None = None) -> None:
        self.argv = [str(word) for word in argv]
        self._folder = tempfile.TemporaryDirectory()
        self._process = _CONTEXT.Process(target=_main, args=(
            list(self.argv), {**(os.environ if env is None else env)}, os.getcwd(), self._folder.name))
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> subprocess.CompletedProcess:
        """Its exit status, minus the signal if it was killed, and what it printed."""
        self._process.join()
        out, err = (Path(self._folder.name, name).read_text() if Path(self._folder.name, name).exists() else ''
                    for name in ('out', 'err'))
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.argv, self._process.exitcode, out, err)


def run(*argv: object, **options) -> subprocess.CompletedProcess:
    return Process(*argv, **options).wait()


def launch(count: int, *argv: object) -> str:
    """What several processes of one run print, started as accelerate launch and torchrun do it."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    started = [Process(*argv, env={
        **os.environ, 'RANK': str(i), 'LOCAL_RANK': str(i), 'WORLD_SIZE': str(count), 'LOCAL_WORLD_SIZE': str(count),
        'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'ACCELERATE_MIXED_PRECISION': 'no',
        'ACCELERATE_DYNAMO_BACKEND': 'no'}) for i in range(count)]
    done = [process.wait() for process in started]
    assert not any(process.returncode for process in done), '\n'.join(process.stderr for process in done)
    return ''.join(process.stdout for process in done)
