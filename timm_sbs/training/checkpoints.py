"""Checkpoints: what a run needs to go on as if it had never been stopped.

A checkpoint is a folder: ``artifact.pt`` (the artifact at the start of the phase, before rounding), ``state.pt`` (what
the phase has changed since), accelerate's own files (optimizer, random states), and
``progress.json`` (phase, steps done, results so far). That is written last: a folder without it is not a checkpoint.
torch and accelerate read what is pickled as tensors alone, as far as their versions do: resume from your own
checkpoints only. Links are not followed.
"""
import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.config import QuantizationConfig, from_dict
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import SbsError, short_reason
from timm_sbs.common.files import replace_files

__all__ = ['Checkpoint', 'Checkpoints', 'artifact_tensors']

FOLDER = 'checkpoints'
PREFIX = 'checkpoint-'
NAMES = f'{PREFIX}[0-9]*-[0-9]*'
PROGRESS, STATE, ARTIFACT = 'progress.json', 'state.pt', 'artifact.pt'
PARTS = 'kept', 'rounded', 'steps'  # of an artifact, beside its predictor

T = TypeVar('T')


def artifact_tensors(artifact: Artifact) -> dict[str, dict[str, Tensor]]:
    """Copies of everything in an artifact that a phase may change, as it is before rounding, part by part."""
    parts = {part: getattr(artifact, part) for part in PARTS}
    parts['predictor'] = artifact.generator.predictor.state_dict()
    return {part: {name: tensor.detach().clone().cpu() for name, tensor in tensors.items()}
            for part, tensors in parts.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found: its folder, and what progress.json says."""
    folder: Path
    progress: dict[str, Any]

    def artifact(self, like: Artifact) -> Artifact:
        """The artifact at the start of the phase: of the structure of another, whose predictor is changed in place."""
        parts, quantization = _read(self.folder / ARTIFACT), self.progress['quantization']
        like.generator.predictor.load_state_dict(parts.pop('predictor'))
        if quantization is not None:
            quantization = from_dict(QuantizationConfig, quantization, PROGRESS)
        storage = dataclasses.replace(like.storage, quantization=quantization)
        return dataclasses.replace(like, storage=storage, **parts)

    def state(self) -> dict[str, Tensor]:
        """What the phase has changed since."""
        found: dict[str, Tensor] = _read(self.folder / STATE)
        return found


def _read(path: Path) -> Any:
    try:
        return torch.load(path, 'cpu', weights_only=True)
    except Exception as e:  # whatever torch and pickle raise
        raise SbsError(f'{path} could not be read: {type(e).__name__}. Resume from an earlier checkpoint.') from e


class Checkpoints:
    """The checkpoints of a run, in ``OUTPUT/checkpoints``: the last two."""

    def __init__(
            self,
            output: str | None,
            accelerator: Accelerator,
            settings: Mapping[str, Any],
            every: int | None = None,
    ) -> None:
        """``settings`` are what must not change until a resumption, JSON-ready; ``every`` counts the optimization steps
        between checkpoints, None writes none."""
        self.folder = Path(output or '.') / FOLDER
        self.accelerator = accelerator
        self.settings = json.loads(json.dumps({**settings, 'num_processes': accelerator.num_processes}))
        self.every = every
        self._resumes = False

    def open(self, resume: str | None) -> Checkpoint | None:
        """The checkpoint to go on from: a folder, or the last one for 'latest'; None if there is none yet, or if none
        is asked for.

        Raises:
            SbsError: There is no such checkpoint, it was made with other settings, none is asked for although there
                are some, or where they are to be is a link.
        """
        self._resumes = resume is not None
        return decided_once(lambda: self._opened(resume), self.accelerator)

    def _opened(self, resume: str | None) -> Checkpoint | None:
        if self.folder.is_symlink():
            raise SbsError(f"'{self.folder}' is a link, through which a run would write and remove files elsewhere. "
                           f'Remove it, or choose another --output.')
        found = self._found()
        if resume is None and found:
            raise SbsError(f"'{self.folder.parent}' holds checkpoints of an earlier run. Continue from them with "
                           f'--resume latest if they are your own, or choose another --output.')
        if resume is None or (resume == 'latest' and not found):
            return None
        folder = found[-1] if resume == 'latest' else Path(resume)
        try:
            progress = json.loads((folder / PROGRESS).read_text(encoding='utf-8'))
            settings = dict(progress['settings'])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise SbsError(f"'{resume}' is not a checkpoint: {short_reason(e)}. Use --resume latest, or a folder "
                           f'{self.folder}/{PREFIX}...') from e
        for name in sorted({*self.settings, *settings}):
            if self.settings.get(name) != settings.get(name):
                raise SbsError(
                    f'The checkpoint {folder} was made with {name} = {settings.get(name)}, but this run has '
                    f'{self.settings.get(name)}. Resume with the same settings, or choose another --output.')
        return Checkpoint(folder, progress)

    def _found(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob(f'{NAMES}/{PROGRESS}') if not path.parent.is_symlink())

    def save(
            self,
            number: int,
            progress: Mapping[str, Any],
            artifact: Mapping[str, Mapping[str, Tensor]],
            state: Mapping[str, Tensor],
    ) -> None:
        """Write a checkpoint, and remove all but the last two.

        Args:
            number: Steps done in the whole run.
            artifact: At the start of the phase (:func:`artifact_tensors`).
            state: What the phase has changed since; empty at its start.

        Raises:
            SbsError: It cannot be written.
        """
        folder, accelerator = self.folder / f"{PREFIX}{progress['phase_index']}-{number:07}", self.accelerator
        try:
            if accelerator.is_main_process:
                _remove(folder)
                folder.mkdir(parents=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(folder))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                torch.save(dict(state), folder / STATE)
                torch.save(dict(artifact), folder / ARTIFACT)
                text = json.dumps({**progress, 'settings': self.settings}, indent=2)
                replace_files({folder / PROGRESS: text.encode()})
        except (OSError, RuntimeError) as e:
            shutil.rmtree(folder, ignore_errors=True)
            raise SbsError(f'The checkpoint {folder} could not be written: {e}. Is the disk full? Resume with --resume '
                           f'latest when there is room.') from e
        if accelerator.is_main_process:
            for other in set(self.folder.glob(NAMES)) - set(self._found()[-2:]):
                with suppress(OSError):
                    _remove(other)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load what accelerate keeps. To be called when the phase's optimizer is prepared.

        Raises:
            SbsError: It cannot be read.
        """
        try:
            self.accelerator.load_state(str(checkpoint.folder))
        except Exception as e:  # whatever accelerate and pickle raise
            raise SbsError(f'{checkpoint.folder} could not be read: {type(e).__name__}. Resume from an earlier '
                           f'checkpoint.') from e

    def load_or_compute(self, name: str, compute: Callable[[], T]) -> T:
        """What a run computes only once: a run that is resumed finds it beside its checkpoints, on the CPU.

        ``compute`` does so on every process alike: tensors and numbers in dicts, lists and tuples.
        """
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / f'{name}-{digest}.pt'  # of these settings, whatever else was run here
        if decided_once(lambda: self._resumes and path.is_file(), self.accelerator):
            loaded: T = _read(path)
            return loaded
        computed = compute()

        def write() -> None:
            file = io.BytesIO()
            torch.save(computed, file)
            try:
                replace_files({path: file.getvalue()})
            except OSError as e:
                raise SbsError(f'{path} could not be written: {e}.') from e

        if self.every:
            decided_once(write, self.accelerator)
        return computed


def _remove(folder: Path) -> None:
    """Remove a checkpoint: progress.json first, for a part of one must not pass for a whole one. A link is removed
    itself."""
    if folder.is_symlink():
        folder.unlink()
        return
    (folder / PROGRESS).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
