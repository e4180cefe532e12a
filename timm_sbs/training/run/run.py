"""One training run: its folder, its progress over all phases, checkpoints, summary.csv and trackers."""
import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import coded_ordering, save_artifact
from timm_sbs.artifact.quantize import ByteBudget
from timm_sbs.common.distributed import decided_once
from timm_sbs.training.run.checkpoints import Checkpoint, Checkpoints
from timm_sbs.training.run.output import write_text
from timm_sbs.training.steps.monitor import Monitor

__all__ = ['Run', 'PhaseMonitor']

SUMMARY_NAME = 'summary.csv'
SUMMARY_COLUMNS = (
    'phase', 'step', 'loss', 'lr', 'holdout_divergence', 'holdout_agreement', 'best_holdout_divergence', 'top1',
    'seconds')
LAST = 'last'  # folder, inside the output, of the artifact after the last measurement
MEASURE = 'holdout_divergence'  # of results: the artifact with the lowest is the best


class Run:
    """What all phases write to. All of it is restored from a checkpoint.

    Attributes:
        output: Folder of the best artifact; that of the last measurement is in ``output/last``.
        results: Measured results so far, as they will stand in config.json.
        best: Results of the best artifact so far.
    """

    def __init__(
            self,
            output: Path,
            accelerator: Accelerator,
            checkpoints: Checkpoints,
            results: Mapping[str, Any],
            checkpoint: Checkpoint | None = None,
            choices: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            output: Where everything is written.
            accelerator: Processes and trackers.
            checkpoints: Where checkpoints go.
            results: How the results come about: seed, versions, hardware and so on.
            checkpoint: What the run goes on from, if it does.
            choices: What was decided before the first step, and is not to be decided again.
        """
        self.output = output
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.checkpoint = checkpoint
        self.choices = dict(choices or {})
        self.byte_budget: ByteBudget | None = None  # made when it is needed, as the next
        self._ordering: Tensor | None = None
        progress = checkpoint.progress if checkpoint else {}
        self.results: dict[str, Any] = dict(progress.get('results', results))
        self.best: dict[str, Any] = dict(progress.get('best', {}))
        self._rows: list[dict[str, Any]] = list(progress.get('rows', []))
        self._started = time.monotonic() - progress.get('seconds', 0.)

    @property
    def seconds(self) -> float:
        """Time of the run, without what was lost between a checkpoint and a kill."""
        return time.monotonic() - self._started

    def is_in(self, phase: str) -> bool:
        """Whether the run goes on from a checkpoint of this phase."""
        return self.checkpoint is not None and self.checkpoint.progress['phase'] == phase

    def save_checkpoint(
            self, phase: str, step: int, number: int, tensors: Mapping[str, Tensor], last: Mapping[str, float]) -> None:
        """Write a checkpoint of this moment, with the figures of the last logged step."""
        progress = {
            'phase': phase, 'step': step, 'last': dict(last), 'results': self.results, 'best': self.best,
            'rows': self._rows, 'choices': self.choices, 'seconds': round(self.seconds, 2)}
        self.checkpoints.save(number, progress, tensors)

    def keep(self, make_artifact: Callable[[Mapping[str, Any]], Artifact], fits: bool = True) -> None:
        """Write the artifact of this moment as the last, and as the best if no better was measured on held-out images.
        What does not fit into a budget is the best only if there is nothing else. All processes have to call this."""
        results = dict(self.results)
        better = decided_once(  # of equals, the later
            lambda: (fits or not self.best) and (
                MEASURE not in results or results[MEASURE] <= self.best.get(MEASURE, math.inf)), self.accelerator)
        if better:
            self.best = results
        if self.accelerator.is_main_process:
            artifact = make_artifact(results)
            ordering = self.coded_ordering(artifact)
            save_artifact(self.output / LAST, artifact, ordering)
            if better:
                save_artifact(self.output, artifact, ordering)

    def coded_ordering(self, artifact: Artifact) -> Tensor:
        """The kernel orderings as bytes. A run does not change them, so they are coded once."""
        if self._ordering is None:
            self._ordering = coded_ordering(artifact)
        return self._ordering

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Add a row to summary.csv, which is written anew, so that a resumed run leaves no row twice."""
        best = {f'best_{MEASURE}': self.best[MEASURE]} if MEASURE in self.best else {}
        self._rows.append({**row, **best, 'seconds': round(self.seconds, 1)})
        if not self.accelerator.is_main_process:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, SUMMARY_COLUMNS, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.output / SUMMARY_NAME, text.getvalue())


class PhaseMonitor(Monitor):
    """Connects a phase to its run: checkpoints, trackers, rows of the summary, measurements."""

    def __init__(
            self,
            run: Run,
            phase: str,
            tensors: Callable[[], Mapping[str, Tensor]],
            load: Callable[[Mapping[str, Tensor]], None],
            steps_before: int = 0,
            measure: Callable[[int], Mapping[str, float]] | None = None,
            adjust: Callable[[int], None] | None = None,
    ) -> None:
        """
        Args:
            run: The run.
            phase: 'reconstruction', 'second-order', 'distillation' or 'quantization'.
            tensors: What a checkpoint has to hold of the model.
            load: Its inverse.
            steps_before: Steps of the phases before.
            measure: Measures and keeps the model after a number of steps; returns figures.
            adjust: Called after every step, before its checkpoint.
        """
        self._run = run
        self._phase = phase
        self._tensors = tensors
        self._load = load
        self._steps_before = steps_before
        self._measure = measure
        self._adjust = adjust
        self.last: dict[str, float] = {}  # figures of the last logged step

    def resume(self) -> int:
        checkpoint = self._run.checkpoint
        if checkpoint is None or not self._run.is_in(self._phase):
            return 0
        self._load(checkpoint.tensors())
        self._run.checkpoints.restore(checkpoint)
        self.last = dict(checkpoint.progress.get('last', {}))
        return checkpoint.progress['step']

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.last = dict(metrics)
        self._run.accelerator.log(
            {f'{self._phase}/{name}': value for name, value in metrics.items()}, step=self._steps_before + step)

    def measure(self, step: int) -> None:
        if self._measure is None:
            return
        figures = self._measure(step)
        self._run.add_row({'phase': self._phase, 'step': step, **self.last, **figures})
        self.log(step, {**self.last, **figures})

    def step_done(self, step: int) -> None:
        if self._adjust is not None:
            self._adjust(step)
        every = self._run.checkpoints.every
        if every and step % every == 0:
            self._run.save_checkpoint(self._phase, step, self._steps_before + step, self._tensors(), self.last)
