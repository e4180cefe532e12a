"""Checkpoints: what a run needs to go on as if it had never been stopped.

A checkpoint is a folder: ``progress.json`` (phase, steps done, results so far), ``artifact.safetensors`` (the artifact
at the start of the phase, before rounding), ``state.safetensors`` (what the phase has changed since) and accelerate's
own files (optimizer, random states). These are pickled: resume from your own checkpoints only.
"""
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.common.config import QuantizationConfig, from_dict, to_dict
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import SbsError, short_reason
from timm_sbs.common.files import replace_files
from timm_sbs.common.tensors import with_prefix, without_prefix

__all__ = ['Checkpoint', 'Checkpoints', 'artifact_at', 'artifact_tensors']

FOLDER = 'checkpoints'
PREFIX = 'checkpoint-'
PROGRESS, STATE, ARTIFACT = 'progress.json', 'state.safetensors', 'artifact.safetensors'


def artifact_tensors(artifact: Artifact) -> dict[str, Tensor]:
    """Copies of everything in an artifact that a phase may change, as it is before rounding."""
    predictor = artifact.generator.predictor.state_dict()
    tensors = {
        **with_prefix('predictor.', predictor), **with_prefix('kept.', artifact.kept),
        **with_prefix('rounded.', artifact.rounded), **with_prefix('steps.', artifact.steps)}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def artifact_at(checkpoint: 'Checkpoint', artifact: Artifact) -> Artifact:
    """An artifact of the same structure with what :func:`artifact_tensors` returned, in the order of its own."""
    tensors, quantization = checkpoint.tensors(ARTIFACT), checkpoint.progress['quantization']
    artifact.generator.predictor.load_state_dict(without_prefix('predictor.', tensors))
    kept, rounded, steps = (
        {name: tensors[f'{part}.{name}'] for name in getattr(artifact, part)} for part in ('kept', 'rounded', 'steps'))
    if quantization is not None:
        quantization = from_dict(QuantizationConfig, quantization, PROGRESS)
    storage = dataclasses.replace(artifact.storage, quantization=quantization)
    return dataclasses.replace(artifact, storage=storage, kept=kept, rounded=rounded, steps=steps)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found: its folder, and what progress.json says."""
    folder: Path
    progress: dict[str, Any]

    def tensors(self, name: str = STATE) -> dict[str, Tensor]:
        """
        Raises:
            SbsError: They cannot be read.
        """
        return _tensors(self.folder / name)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (OSError, SafetensorError) as e:
        raise SbsError(f'{path} could not be read: {e}. Resume from an earlier checkpoint.') from e


class Checkpoints:
    """The checkpoints of a run, in ``OUTPUT/checkpoints``: the last two."""

    def __init__(
            self,
            output: str | None,
            accelerator: Accelerator,
            settings: Mapping[str, Any],
            every: int | None = None,
    ) -> None:
        """
        Args:
            output: Folder of the run; None: nothing is written.
            accelerator: Its processes, and what accelerate keeps of them.
            settings: What must not change between a checkpoint and its resumption, JSON-ready.
            every: Optimization steps between checkpoints; None writes none.
        """
        self.folder = Path(output or '.') / FOLDER
        self.accelerator = accelerator
        self.settings = json.loads(json.dumps({**settings, 'num_processes': accelerator.num_processes}))
        self.every = every

    def found(self) -> list[Path]:
        """Complete checkpoints, oldest first. One that was interrupted while it was written is not among them."""
        return sorted(path for path in self.folder.glob(f'{PREFIX}*') if (path / PROGRESS).is_file())

    def open(self, resume: str) -> Checkpoint | None:
        """The checkpoint that is asked for: 'latest' (None if there is none yet), or a folder.

        Raises:
            SbsError: There is no such checkpoint, or it was made with other settings.
        """
        return decided_once(lambda: self._opened(resume), self.accelerator)

    def refuse_those_of_another_run(self) -> None:
        """Raises SbsError where there are checkpoints, on every process alike."""
        def refuse() -> None:
            if self.found():
                raise SbsError(f"'{self.folder.parent}' holds checkpoints of an earlier run. Continue from them with "
                               f'--resume latest, or choose another --output.')

        decided_once(refuse, self.accelerator)

    def _opened(self, resume: str) -> Checkpoint | None:
        folder = Path(resume)
        if resume == 'latest':
            if not (found := self.found()):
                return None
            folder = found[-1]
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

    def save(
            self,
            number: int,
            progress: Mapping[str, Any],
            artifact: Mapping[str, Tensor],
            quantization: QuantizationConfig | None,
            state: Mapping[str, Tensor],
    ) -> None:
        """Write a checkpoint; it appears complete or not at all.

        Args:
            number: Steps done in the whole run.
            progress: JSON-ready.
            artifact: At the start of the phase (:func:`artifact_tensors`).
            quantization: Its own.
            state: What the phase has changed since; empty at its start.

        Raises:
            SbsError: It cannot be written.
        """
        phase = progress['phase_index']
        final = self.folder / f'{PREFIX}{phase}-{number:07}'
        unfinished, accelerator = final.with_name(f'.{final.name}'), self.accelerator
        text = json.dumps({
            **progress, 'quantization': quantization and to_dict(quantization), 'settings': self.settings}, indent=2)
        try:
            if accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(unfinished))
            if accelerator.is_main_process:
                tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
                safetensors.torch.save_file(tensors, unfinished / STATE)
                safetensors.torch.save_file(dict(artifact), unfinished / ARTIFACT)
                (unfinished / PROGRESS).write_text(text + '\n', encoding='utf-8')
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                shutil.rmtree(final, ignore_errors=True)
                unfinished.rename(final)
                self._remove_old()
        except (OSError, RuntimeError, SafetensorError) as e:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise SbsError(f'The checkpoint {final} could not be written: {e}. Is the disk full? Resume with --resume '
                           f'latest when there is room.') from e

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

    def load_or_compute(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that a run computes only once: a resumed run finds them beside its checkpoints.

        Args:
            name: Of their file.
            compute: Computes them, on every process alike.
        """
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / f'{name}-{digest}.safetensors'  # of these settings, whatever else was run here
        if decided_once(path.is_file, self.accelerator):
            return _tensors(path)
        tensors = compute()

        def write() -> None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                replace_files({path: safetensors.torch.save(tensors)})
            except OSError as e:
                raise SbsError(f'{path} could not be written: {e}.') from e

        if self.every:
            decided_once(write, self.accelerator)
        return tensors

    def _remove_old(self) -> None:
        """All but the last two checkpoints, and what was interrupted."""
        for path in [*self.folder.glob(f'.{PREFIX}*'), *self.found()[:-2]]:
            hidden = path.with_name(f".{path.name.lstrip('.')}")  # never a half-removed one under its own name
            path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
