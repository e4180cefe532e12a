"""What a training phase tells while it runs. The phases know nothing of files, trackers or measurements."""
from collections.abc import Mapping

__all__ = ['Monitor']


class Monitor:
    """Listens to one phase; this one does nothing. Steps are counted from 1: 'so many are done'."""

    def resume(self) -> int:
        """Called once, when model and optimizer exist: restore them, and return the number of steps done."""
        return 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of a step, now and then."""

    def measure(self, step: int) -> None:
        """Called every ``eval_interval`` steps and after the last."""

    def step_done(self, step: int) -> None:
        """Called after every step, when nothing else is to be done for it: the time for a checkpoint."""
