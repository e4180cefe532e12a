"""A run in progress: when checkpoints are written, which artifact is best on held-out images, summary.csv, trackers.
"""
import copy
import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import find_folder, load_artifact
from timm_sbs.common.config import to_dict
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import SbsError
from timm_sbs.common.files import replace_files
from timm_sbs.common.progress import say
from timm_sbs.common.tensors import copied
from timm_sbs.data.accuracy import Comparison
from timm_sbs.training.checkpoints import Checkpoint, artifact_tensors
from timm_sbs.training.flat_settings import flat
from timm_sbs.training.images import Images, statistics_images
from timm_sbs.training.loop import Context, trained_state
from timm_sbs.training.plan import Plan

__all__ = ['Run']

SUMMARY_NAME, SETTINGS_NAME = 'summary.csv', 'settings.yaml'
SUMMARY_COLUMNS = (
    'phase', 'step', 'loss', 'lr', 'holdout_divergence', 'holdout_agreement', 'best_holdout_divergence', 'top1',
    'seconds')
MEASURE = 'holdout_divergence'  # of results: the artifact with the lowest is the best
FEW_IMAGES = 256  # to look at where none are held out
# Percentages of unchanged predictions: below the first, what statistics have led to is compared with what needs none,
# which must have so many more to be taken.
DOUBTFUL, WORSE = 80., 10.


class Run(Context):
    """What all phases write to. All of it is restored from a checkpoint.

    Attributes:
        results: Measured results so far, as they will stand in config.json.
        best: The best artifact so far, in a copy of its own.
        steps: Optimization steps of this phase that are done.
    """

    def __init__(self, plan: Plan, results: Mapping[str, Any]) -> None:
        super().__init__(plan.accelerator, plan.settings.run.seed, plan.outputs)
        self.plan = plan
        self.best: Artifact | None = None
        progress = plan.checkpoint.progress if plan.checkpoint else {}
        self.results = dict(progress.get('results', results))
        self._best_results: dict[str, Any] = dict(progress.get('best', {}))
        self._rows: list[dict[str, Any]] = list(progress.get('rows', []))
        self._started = time.monotonic() - progress.get('seconds', 0.)
        self._phase, self._index, self.steps = '', 0, 0
        self._before = progress.get('before', 0)  # steps of the phases before this one
        self._start: tuple[dict[str, Any] | None, dict[str, dict[str, Tensor]]] = None, {}  # the artifact when it began
        self._last: dict[str, float] = {}  # figures of the last logged step
        self.held_out: Comparison | None = None  # chooses
        if images := plan.images.held_out:
            self.held_out = self.comparison(images.batches, 'held-out images')
        self._looked_at = self.held_out
        self.output = Path(plan.settings.run.output) if plan.settings.run.output else None
        if self.output and self._best_results:
            base = plan.settings.target.base
            self.best = load_artifact(self.output, base=find_folder(base) if base else None)
        if self.output:
            self._write(SETTINGS_NAME, yaml.safe_dump(flat(plan.settings)))

    def look_at(self, images: Images) -> None:
        """Look at some images of the statistics where none are held out, to find out what statistics have led to."""
        if self._looked_at is None and self.plan.uses:
            batches, _ = statistics_images(images, FEW_IMAGES, self.accelerator)
            labelled = [(batch, torch.zeros(len(batch), dtype=torch.long)) for batch in batches]
            self._looked_at = self.comparison(labelled, 'comparison')

    def comparison(self, images: Iterable[tuple[Tensor, Tensor]], name: str) -> Comparison:
        """With the original, on some images; ``name`` stands in the progress bar."""
        return Comparison(images, self.plan.original, self.accelerator, name, self.outputs)

    @property
    def seconds(self) -> float:
        """Time of the run, without what was lost between a checkpoint and a kill."""
        return time.monotonic() - self._started

    def begin(self, phase: str, index: int, artifact: Artifact) -> None:
        """A phase begins. What it draws depends on nothing before it."""
        self._before += self.steps
        self._phase, self._index, self.steps, self._last = phase, index, 0, {}
        torch.manual_seed(self.seed * 1009 + index)
        if self.plan.checkpoints.every:
            quantization = artifact.storage.quantization
            self._start = to_dict(quantization) if quantization else None, artifact_tensors(artifact)
            if self._resumed is None:
                self._save_checkpoint({})

    @property
    def _resumed(self) -> Checkpoint | None:
        """The checkpoint that the run goes on from, if it is one of this phase."""
        checkpoint = self.plan.checkpoint
        return checkpoint if checkpoint and checkpoint.progress['phase_index'] == self._index else None

    def resume(self, module: nn.Module) -> int:
        checkpoint = self._resumed
        if checkpoint and checkpoint.progress['step']:
            module.load_state_dict(checkpoint.state(), strict=False)  # what is not trained is not in it
            self.plan.checkpoints.restore(checkpoint)
            self.steps, self._last = checkpoint.progress['step'], dict(checkpoint.progress['last'])
        return self.steps

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._last = dict(figures)
        named = {f'{self._phase}/{name}': value for name, value in figures.items()}
        self.accelerator.log(named, step=self._before + step)

    def step_done(self, step: int, module: nn.Module) -> None:
        self.steps, every = step, self.plan.checkpoints.every
        if every and step % every == 0:
            self._save_checkpoint(trained_state(module))

    def _save_checkpoint(self, state: Mapping[str, Tensor]) -> None:
        quantization, tensors = self._start
        progress = {
            'phase': self._phase, 'phase_index': self._index, 'before': self._before, 'step': self.steps,
            'last': self._last, 'results': self.results, 'best': self._best_results, 'rows': self._rows,
            'seconds': round(self.seconds, 2), 'quantization': quantization}
        self.plan.checkpoints.save(self._before + self.steps, progress, tensors, state)

    def consider(self, artifact: Artifact, when: str, fits: bool = True, step: int = 0) -> None:
        """Measure an artifact on held-out images; keep it if none was better, or if it is the first that fits.

        All processes have to call this. What does not fit is the best only if there is nothing else.
        """
        figures: dict[str, float] = {}
        if self.held_out:
            found = self.held_out.measure(artifact.as_stored().state_dict())
            figures = {MEASURE: float(f'{found.divergence:.6g}'), 'holdout_agreement': round(found.agreement, 3)}
            self.results.update(holdout_images=found.images, **figures)
            say(self.accelerator, f'{when}: {found} on held-out images')
        results = dict(self.results)
        lowest = self._best_results.get(MEASURE, math.inf)
        is_best = MEASURE not in results or results[MEASURE] <= lowest  # of equals, the later
        if decided_once(lambda: is_best and (fits or self.best is None), self.accelerator):
            self._best_results = results
            self.best = _copied(artifact).with_results(results)
            if self.output and self.accelerator.is_main_process:
                self.best.save(self.output)
        self.add_row({'phase': self._phase, 'step': step, **self._last, **figures})

    def forget_best(self) -> None:
        """What is measured from now on is smaller: the artifacts before it do not compete."""
        self.best, self._best_results = None, {}

    def far_worse(self, artifact: Artifact, other: Callable[[], Artifact]) -> tuple[float, float] | None:
        """All processes have to call this. None also where there are no images to look at."""
        images = self._looked_at
        if not images or (seen := images.measure(artifact.as_stored().state_dict()).agreement) >= DOUBTFUL:
            return None
        without = images.measure(other().as_stored().state_dict()).agreement
        return (seen, without) if without > seen + WORSE else None

    def is_better(self, artifact: Artifact, other: Artifact) -> bool:
        """All processes have to call this. True where there are no images to look at."""
        if not (images := self._looked_at):
            return True
        found, before = (images.measure(each.as_stored().state_dict()).divergence for each in (artifact, other))
        return decided_once(lambda: found < before, self.accelerator)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Add a row to summary.csv, which is written anew, so that a resumed run leaves no row twice."""
        best = {f'best_{MEASURE}': self._best_results[MEASURE]} if MEASURE in self._best_results else {}
        self._rows.append({**row, **best, 'seconds': round(self.seconds, 1)})
        text = io.StringIO()
        writer = csv.DictWriter(text, SUMMARY_COLUMNS, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(self._rows)
        self._write(SUMMARY_NAME, text.getvalue())

    def _write(self, name: str, text: str) -> None:
        """Write a text file beside the artifact. All processes have to call this."""
        if self.output is None:
            return
        path = self.output / name

        def write() -> None:
            try:
                replace_files({path: text.encode()})
            except OSError as e:
                raise SbsError(f"'{path}' could not be written: {e}. Choose another --output.") from e

        decided_once(write, self.accelerator)


def _copied(artifact: Artifact) -> Artifact:
    """An artifact that training does not change any more."""
    predictor = copy.deepcopy(artifact.generator.predictor).requires_grad_(False)
    return dataclasses.replace(
        artifact, generator=artifact.generator.with_predictor(predictor), kept=copied(artifact.kept),
        rounded=copied(artifact.rounded))
