"""A clock that looks at some steps of a phase, and ends the phase when it knows how long they take."""
import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from timm_sbs.common.devices import now
from timm_sbs.common.distributed import decided_once
from timm_sbs.data.batches import Batch
from timm_sbs.training.steps.monitor import Monitor

__all__ = ['AlikeImages', 'StepTimer', 'StepTimes', 'time_steps']

ENOUGH_SECONDS, ENOUGH_STEPS = 0.2, 3  # of steps of one size, whichever comes first
LONG = 1.5  # seconds of a first step that counts, although it warms up
WORTHWHILE = 0.25  # seconds that a step of a third or later size may take


class _KnowsEnough(Exception):
    """Ends a phase from within."""


@dataclass(frozen=True)
class StepTimes:
    """How long the steps of a phase take.

    Attributes:
        setup: Seconds before the first step.
        seconds: Of a step, by the images in it, the fewest first.
    """
    setup: float
    seconds: Mapping[int, float]

    def of(self, images: int = 1) -> float:
        """Seconds of a step with so many images: as measured, or along the line through the two largest sizes.

        Larger steps take no less time than the largest measured one, and no more than in proportion to their images.
        """
        if images in self.seconds:
            return self.seconds[images]
        *smaller, (most, seconds) = self.seconds.items()
        if not smaller:
            return seconds * images / most
        fewer, before = smaller[-1]
        line = seconds + (seconds - before) / (most - fewer) * (images - most)
        low, high = sorted((seconds, seconds * images / most))
        return min(max(line, low), high)


class StepTimer(Monitor):
    """Listens to a phase as its monitor. All processes hear the main one's clock, so that all end at the same step.

    Steps on images begin with few of them, and grow as long as that is cheap: the time of the network grows with their
    number, and that of generating its weights does not.

    Attributes:
        images: In the step that comes.
    """

    def __init__(self, accelerator: Accelerator, fewest: int = 1, most: int = 1, growth: int = 4) -> None:
        """
        Args:
            accelerator: Device and processes.
            fewest: Images of the first steps.
            most: Images of a step of the run.
            growth: Factor from one size to the next. Two sizes are looked at in any case, if there are two.
        """
        self.images = min(fewest, most)
        self._most, self._growth = most, growth
        self._accelerator = accelerator
        self._setup = 0.
        self._seconds: dict[int, float] = {}
        self._same: list[float] = []  # seconds of steps of the present size
        self._before = self._now()

    @property
    def times(self) -> StepTimes:
        """What is known so far."""
        rest = {} if self.images in self._seconds or not self._same else {self.images: self._same[-1]}
        return StepTimes(self._setup, {**self._seconds, **rest})

    def resume(self) -> int:
        self._setup = self._lap()
        return 0

    def step_done(self, step: int) -> None:
        self._same.append(self._lap())
        counted = self._counted()
        if sum(counted) < ENOUGH_SECONDS and len(counted) < ENOUGH_STEPS:
            return
        self._seconds[self.images] = statistics.median(counted)
        self._same = []
        larger = min(self._most, self.images * self._growth)
        if larger == self.images or (len(self._seconds) > 1 and self.times.of(larger) > WORTHWHILE):
            raise _KnowsEnough
        self.images = larger

    def _counted(self) -> list[float]:
        """Seconds of steps that are no warm-up. On a CPU this is the first of all. On an accelerator it is the first of
        each size, and the one before that, whose images were on their way already."""
        if self._accelerator.device.type != 'cpu':
            return self._same[2:]
        return self._same if self._seconds or self._same[0] > LONG else self._same[1:]

    def _lap(self) -> float:
        def lap() -> float:
            before, self._before = self._before, self._now()
            return self._before - before

        return decided_once(lap, self._accelerator)

    def _now(self) -> float:
        return now(self._accelerator.device)


class AlikeImages:
    """Random images, all alike, as many in a batch as the step that comes is to have."""

    def __init__(self, timer: StepTimer, shape: Sequence[int]) -> None:
        """``shape`` of an image: [C, H, W]."""
        self._timer = timer
        self._image = torch.randn(1, *shape)

    def starting_at(self, number: int) -> Iterator[Batch]:
        """Batches for a phase whose monitor is the timer."""
        while True:
            zeros = torch.zeros(self._timer.images, dtype=torch.long)
            yield self._image.repeat(len(zeros), 1, 1, 1), zeros, zeros

    def watched(self) -> Iterator[Batch]:
        """Batches for what has no monitor: a step is what is done with a batch until the next one is asked for."""
        self._timer.resume()
        for step, batch in enumerate(self.starting_at(0), 1):
            yield batch
            self._timer.step_done(step)


def time_steps(
        phase: Callable[[StepTimer], object],
        accelerator: Accelerator,
        fewest: int = 1,
        most: int = 1,
        growth: int = 4,
) -> StepTimes:
    """Run a phase, or what takes batches of images, with a :class:`StepTimer` until that knows enough."""
    timer = StepTimer(accelerator, fewest, most, growth)
    with contextlib.suppress(_KnowsEnough):
        phase(timer)
    return timer.times
