"""A run in progress: checkpoints, the choice by held-out images, summary.csv, trackers."""
import copy
import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.config import QuantizationConfig
from timm_sbs.common.distributed import decided_once
from timm_sbs.common.errors import SbsError
from timm_sbs.common.files import replace_files
from timm_sbs.common.progress import say
from timm_sbs.data.batches import SampleBatches
from timm_sbs.training.checkpoints import artifact_tensors
from timm_sbs.training.flat_settings import flat
from timm_sbs.training.held_out import HeldOut, figures_of, with_tensors
from timm_sbs.training.images import statistics_images
from timm_sbs.training.loop import Context
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
    """

    def __init__(self, plan: Plan, results: Mapping[str, Any]) -> None:
        super().__init__(plan.accelerator, plan.settings.run.seed)
        self.plan = plan
        self.best: Artifact | None = None
        progress = plan.checkpoint.progress if plan.checkpoint else {}
        self.results = dict(progress.get('results', results))
        self._best_results: dict[str, Any] = dict(progress.get('best', {}))
        self._rows: list[dict[str, Any]] = list(progress.get('rows', []))
        self._started = time.monotonic() - progress.get('seconds', 0.)
        self._phase, self._index, self._before = '', 0, 0  # name, number, and steps before it
        self._start: tuple[QuantizationConfig | None, dict[str, Tensor]] | None = None  # the artifact when it began
        self._last: dict[str, float] = {}  # figures of the last logged step
        self.held_out: HeldOut | None = None  # chooses
        if images := plan.images.held_out:
            self.held_out = HeldOut(images.batches, images.count, plan.original, self.accelerator)
        self._looked_at = self.held_out
        self.output = Path(plan.settings.run.output) if plan.settings.run.output else None
        if self.output and self._best_results:
            self.best = load_artifact(self.output)
        if self.output:
            self._write(SETTINGS_NAME, yaml.safe_dump(flat(plan.settings)))

    def look_at(self, drawn: SampleBatches | None) -> None:
        """Look at some images of the statistics where none are held out, to find out what statistics have led to."""
        if self._looked_at is None and self.plan.uses:
            batches, count = statistics_images(self.plan.images, drawn, FEW_IMAGES, self.accelerator)
            labelled = [(images, torch.zeros(len(images), dtype=torch.long)) for images in batches]
            self._looked_at = HeldOut(labelled, count, self.plan.original, self.accelerator)

    @property
    def seconds(self) -> float:
        """Time of the run, without what was lost between a checkpoint and a kill."""
        return time.monotonic() - self._started

    def begin(self, phase: str, index: int, steps_before: int, artifact: Artifact) -> None:
        """A phase begins. What it draws depends on nothing before it."""
        self._phase, self._index, self._before, self._last = phase, index, steps_before, {}
        torch.manual_seed(self.seed * 1009 + index)
        checkpoints, resumed = self.plan.checkpoints, self.plan.checkpoint
        if checkpoints.every:
            self._start = artifact.storage.quantization, artifact_tensors(artifact)
            if not (resumed and resumed.progress['phase_index'] == index):
                self._save_checkpoint(0, {})

    def resume(self, load: Callable[[Mapping[str, Tensor]], None]) -> int:
        checkpoint = self.plan.checkpoint
        if checkpoint is None or checkpoint.progress['phase_index'] != self._index or not checkpoint.progress['step']:
            return 0
        load(checkpoint.tensors())
        self.plan.checkpoints.restore(checkpoint)
        self._last = dict(checkpoint.progress['last'])
        return checkpoint.progress['step']

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._last = dict(figures)
        named = {f'{self._phase}/{name}': value for name, value in figures.items()}
        self.accelerator.log(named, step=self._before + step)

    def step_done(self, step: int, state: Callable[[], Mapping[str, Tensor]]) -> None:
        every = self.plan.checkpoints.every
        if every and step % every == 0:
            self._save_checkpoint(step, state())

    def _save_checkpoint(self, step: int, state: Mapping[str, Tensor]) -> None:
        if self._start is None:
            return
        quantization, tensors = self._start
        progress = {
            'phase': self._phase, 'phase_index': self._index, 'step': step, 'last': self._last, 'results': self.results,
            'best': self._best_results, 'rows': self._rows, 'seconds': round(self.seconds, 2)}
        self.plan.checkpoints.save(self._before + step, progress, tensors, quantization, state)

    def consider(
            self,
            artifact: Artifact,
            when: str,
            model: nn.Module | None = None,
            fits: bool = True,
            step: int = 0,
    ) -> None:
        """Measure an artifact on held-out images; keep it if none was better, or if it is the first that fits.

        All processes have to call this. What does not fit is the best only if there is nothing else.
        """
        figures: dict[str, float] = {}
        if self.held_out:
            if model is None:
                model = with_tensors(self.plan.original, artifact.as_stored().state_dict(), self.accelerator.device)
            found = self.held_out.measure(model)
            figures = figures_of(found)
            self.results.update(holdout_images=self.held_out.count, **figures)
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

    def agreement_of(self, artifact: Artifact) -> float | None:
        """Percentage of predictions that stay; None where there are no images to look at. All processes call this."""
        if self._looked_at is None:
            return None
        model = with_tensors(self.plan.original, artifact.as_stored().state_dict(), self.accelerator.device)
        return self._looked_at.measure(model).agreement

    def far_worse(self, artifact: Artifact, other: Callable[[], Artifact]) -> tuple[float, float] | None:
        """All processes have to call this."""
        seen = self.agreement_of(artifact)
        if seen is None or seen >= DOUBTFUL:
            return None
        without = self.agreement_of(other()) or 0.
        return (seen, without) if without > seen + WORSE else None

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
        """Write a text file beside the artifact; it appears complete or not at all."""
        if not self.output or not self.accelerator.is_main_process:
            return
        try:
            replace_files({self.output / name: text.encode()})
        except OSError as e:
            raise SbsError(f"'{self.output / name}' could not be written: {e}.") from e


def _copied(artifact: Artifact) -> Artifact:
    """An artifact that training does not change any more."""
    predictor = copy.deepcopy(artifact.generator.predictor).requires_grad_(False)
    kept, rounded = ({name: tensor.detach().clone() for name, tensor in tensors.items()}
                     for tensors in (artifact.kept, artifact.rounded))
    return dataclasses.replace(
        artifact, generator=artifact.generator.with_predictor(predictor), kept=kept, rounded=rounded)
