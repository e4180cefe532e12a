"""Checkpoints: everything that a run needs to go on as if it had never been stopped.

A checkpoint is a folder: ``progress.json`` (phase, steps done, results so far), ``state.safetensors`` (predictor and
kept tensors), and accelerate's own files (optimizer, gradient scaler, random states of each process). Neither the
original model nor a generated weight is in it. accelerate's files are pickled: resume from your own checkpoints only.
"""
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import SbsError
from timm_sbs.common.files import replace_files
from timm_sbs.training.run.resume import ORIGINAL

__all__ = ['Checkpoint', 'Checkpoints', 'recorded_setting']

PROGRESS_NAME = 'progress.json'
STATE_NAME = 'state.safetensors'
FOLDER = 'checkpoints'
PREFIX = 'checkpoint-'


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found.

    Attributes:
        folder: Where it is.
        progress: Its progress.json.
    """
    folder: Path
    progress: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """Predictor and kept tensors.

        Raises:
            SbsError: They cannot be read.
        """
        return _tensors(self.folder / STATE_NAME)


@contextmanager
def _must_be_readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as e:
        raise SbsError(
            f'{path} cannot be read: {e}. Resume from an earlier one, or remove it and resume again.') from e


def _metadata(path: Path) -> dict[str, str]:
    with _must_be_readable(path), safe_open(path, framework='pt') as file:
        return file.metadata() or {}


def _tensors(path: Path) -> dict[str, Tensor]:
    with _must_be_readable(path):
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}


def recorded_setting(output: Path, resume: str | None, name: str, part: str = 'settings') -> Any:
    """A setting of the checkpoint that ``--resume`` names, or of its 'choices', before it is opened; None if there is
    none."""
    if not resume:
        return None
    folders = _complete(output / FOLDER)[-1:] if resume == 'latest' else [Path(resume)]
    try:
        return json.loads((folders[0] / PROGRESS_NAME).read_text(encoding='utf-8'))[part][name]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # opening it tells what is wrong


def _complete(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first, without any that was interrupted while it was written."""
    return sorted(
        (path for path in folder.glob(f'{PREFIX}*')
         if path.name.removeprefix(PREFIX).isdigit() and (path / PROGRESS_NAME).is_file()),
        key=lambda path: int(path.name.removeprefix(PREFIX)))


class Checkpoints:
    """The checkpoints of a run, in ``OUTPUT/checkpoints``."""

    def __init__(
            self,
            output: Path,
            accelerator: Accelerator,
            settings: Mapping[str, Any],
            every: int | None = None,
            limit: int | None = None,
    ) -> None:
        """
        Args:
            output: Folder of the run.
            accelerator: Its processes, and what accelerate keeps of them.
            settings: What must not change between a checkpoint and its resumption, JSON-ready.
            every: Steps between checkpoints; None writes none.
            limit: Largest number of checkpoints; older ones are removed. None keeps all.
        """
        self.folder = output / FOLDER
        self.accelerator = accelerator
        self.settings = json.loads(json.dumps({**settings, 'num_processes': accelerator.num_processes}))
        self.every = every
        self.limit = limit

    def found(self) -> list[Path]:
        """Complete checkpoints, oldest first. One that was interrupted while it was written is not among them."""
        return _complete(self.folder)

    def open(self, resume: str) -> Checkpoint | None:
        """The checkpoint that ``--resume`` names: 'latest' (None if there is none yet), or a folder.

        Raises:
            SbsError: There is no such checkpoint, or it was made with other settings.
        """
        return decided_once(lambda: self._opened(resume), self.accelerator)

    def refuse_those_of_another_run(self) -> None:
        """Raises SbsError where there are checkpoints, on every process alike."""
        def refuse() -> None:
            if self.found():
                raise SbsError(
                    f"'{self.folder.parent}' holds checkpoints of an earlier run. Go on from them with --resume "
                    f'latest, or choose another --output.')

        decided_once(refuse, self.accelerator)

    def _opened(self, resume: str) -> Checkpoint | None:
        if resume == 'latest':
            found = self.found()
            if not found:
                return None
            folder = found[-1]
        else:
            folder = Path(resume)
        try:
            progress = json.loads((folder / PROGRESS_NAME).read_text(encoding='utf-8'))
            settings = progress['settings']
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise SbsError(f"'{resume}' is no checkpoint of a run: {e}. Use --resume latest, or a folder "
                           f"{self.folder}/{PREFIX}N.") from e
        for name in sorted({*self.settings, *settings}):
            if self.settings.get(name) != settings.get(name):
                if name == ORIGINAL:
                    raise SbsError(f'The checkpoint {folder} was made from an original with other weights. Resume with '
                                   f'the same ones, or start anew in another --output.')
                flag = name.replace('_', '-')
                raise SbsError(
                    f'The checkpoint {folder} was made with --{flag} {settings.get(name)}, but this run has '
                    f'{self.settings.get(name)}. Resume with the same settings, or start anew in another --output.')
        return Checkpoint(folder, progress)

    def save(self, number: int, progress: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint; it appears complete or not at all.

        Args:
            number: Steps done in the whole run.
            progress: JSON-ready.
            tensors: Predictor and kept tensors.

        Raises:
            SbsError: It cannot be written.
        """
        final, unfinished = self.folder / f'{PREFIX}{number:07}', self.folder / f'.{PREFIX}{number:07}'
        accelerator = self.accelerator
        try:
            if accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(unfinished))
            if accelerator.is_main_process:
                state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                safetensors.torch.save_file(state, unfinished / STATE_NAME)
                text = json.dumps({**progress, 'settings': self.settings}, indent=2)
                (unfinished / PROGRESS_NAME).write_text(text + '\n', encoding='utf-8')
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                shutil.rmtree(final, ignore_errors=True)
                unfinished.rename(final)
                self._remove_old()
        except (OSError, RuntimeError, SafetensorError) as e:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise SbsError(f'Cannot write the checkpoint {final}: {e}. Is the disk full? Resume with --resume latest '
                           f'when there is room.') from e

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load what accelerate keeps. To be called when the phase's optimizer is prepared.

        Raises:
            SbsError: It cannot be read.
        """
        try:
            self.accelerator.load_state(str(checkpoint.folder))
        except Exception as e:
            raise SbsError(
                f'The checkpoint {checkpoint.folder} cannot be read: {e}. Resume from an earlier one.') from e

    def load_or_compute(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that a run computes only once, such as orderings: a resumed run finds them beside its checkpoints.

        They carry a digest of the run's settings. What another run has left in the same folder is computed anew.

        Args:
            name: Of their file.
            compute: Computes them, on every process alike.
        """
        path = self.folder / f'{name}.safetensors'
        settings = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        if decided_once(lambda: path.is_file() and _metadata(path).get('settings') == settings, self.accelerator):
            return _tensors(path)
        tensors = compute()

        def write() -> None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                replace_files({path: safetensors.torch.save(tensors, {'settings': settings})})
            except OSError as e:
                raise SbsError(f'Cannot write {path}: {e}.') from e

        if self.every:
            decided_once(write, self.accelerator)
        return tensors

    def _remove_old(self) -> None:
        for path in self.folder.glob(f'.{PREFIX}*'):
            shutil.rmtree(path, ignore_errors=True)
        if self.limit:
            for path in self.found()[:-self.limit]:
                unfinished = path.with_name(f'.{path.name}')  # never a half-removed one under its own name
                path.rename(unfinished)
                shutil.rmtree(unfinished, ignore_errors=True)
